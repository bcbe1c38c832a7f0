"""SGD over the batches of a stage, with everything that moves written out."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from reference import losses
from reference.meta import OldWeight
from reference.methods import View, rules, terms
from reference.network import Arrays, Outputs, Params, joined, network, score
from reference.problem import Batch, Model, Problem
from reference.tape import Var, gradient, var


class Result(NamedTuple):
    """What came out of a stage.

    Attributes:
      params, stats: after the last batch.
      terms: the loss terms of each batch, by name.
      accuracy: of each batch, in %.
      old_weight: the learned w of the meta loss.
    """

    params: Arrays
    stats: Arrays
    terms: list[dict[str, float]]
    accuracy: list[float]
    old_weight: np.ndarray


def train(problem: Problem, start: Model, teacher: Model, batches: Sequence[Batch]) -> Result:
    """Train on the batches, one SGD step each."""
    rule, old_weight = rules(problem), OldWeight(problem)
    params, stats = dict(start.params), start.stats
    momentum = {name: np.zeros_like(value) for name, value in params.items()}
    logged, accuracy = [], []
    for batch in batches:
        if problem.method == "pass":
            batch = _turned(batch)
        model = Model(params, stats, start.extra)
        if batch.balanced is not None:
            old_weight.look_ahead(model, batch, rule.head)
        leaves = {name: var(value) for name, value in params.items()}
        passes = [np.ones(len(batch.images), bool)]
        if problem.method == "ccil":  # the code: model(x), then model(x_old)
            passes = [~batch.replayed, batch.replayed]
        outs = []
        for rows in passes:
            out, stats = network(
                leaves,
                stats,
                batch.images[rows],
                head=rule.head,
                batch_statistics=rule.batch_statistics,
            )
            outs.append(out)
        out, labels = joined(outs).rows(batch.real), batch.labels[batch.real]
        factor = old_weight.factor(old_weight.value)
        parts = terms(_view(problem, rule.head, leaves, teacher, batch, model, out, factor))
        logged.append({name: float(part.value) for name, part in parts.items()})
        right = out.logits.value[:, : problem.seen].argmax(1) == labels
        accuracy.append(100 * float(right[:: 4 if problem.method == "pass" else 1].mean()))

        moving = {name: leaf for name, leaf in leaves.items() if name.startswith(rule.moves)}
        params = dict(params)
        for name, slope in gradient(sum(parts.values(), var(0.0)), moving).items():
            if (
                problem.method == "eeil"
            ):  # the code: (der + 0.3 / (1 + epoch)^0.55 randn) / batchSize
                slope = slope + 0.3 * batch.draws[name] / len(batch.real)
            slope = np.clip(slope, -rule.clamp, rule.clamp)
            if rule.weight_decay:  # before momentum, as in PyTorch
                slope = slope + problem.weight_decay * params[name]
            momentum[name] = problem.momentum * momentum[name] + slope
            after = params[name] - batch.learning_rate * momentum[name]
            if name in ("head/weight", "head/bias"):
                first = 0 if rule.old_rows else problem.old
                after[:first] = params[name][:first]
                after[problem.seen :] = params[name][problem.seen :]
            params[name] = after
    return Result(params, stats, logged, accuracy, old_weight.value)


def _turned(batch: Batch) -> Batch:
    """Put the four quarter turns of each image one behind the other."""
    images = np.stack([np.rot90(image, k) for image in batch.images for k in range(4)])
    real = np.array([4 * place + k for place in batch.real for k in range(4)])
    labels, replayed = (np.repeat(x, 4) for x in (batch.labels, batch.replayed))
    return dataclasses.replace(batch, images=images, labels=labels, replayed=replayed, real=real)


def _view(
    problem: Problem,
    head: str,
    leaves: Params,
    teacher: Model,
    batch: Batch,
    model: Model,
    student: Outputs,
    factor: np.ndarray,
) -> View:
    labels = batch.labels[batch.real]
    past = {name: var(value) for name, value in teacher.params.items()}
    outputs, _ = network(past, teacher.stats, batch.images, head=head, batch_statistics=False)

    def mean_loss(out: Outputs) -> Var:
        return losses.criterion(
            problem.loss, problem.loss_options, out, labels, problem.counts, problem.old, factor
        ).mean()

    return View(
        problem=problem,
        student=student,
        teacher=outputs.rows(batch.real),
        labels=labels,
        params=leaves,
        past=teacher.params,
        past_stats=teacher.stats,
        extra=model.extra,
        teacher_extra=teacher.extra,
        draws=batch.draws
        if problem.method == "eeil"
        else {name: values[batch.real] for name, values in batch.draws.items()},
        replayed=batch.replayed[batch.real],
        classify=mean_loss,
        score=lambda features: score(leaves, features, head),
    )
