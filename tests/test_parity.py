"""Two compiled steps of every method and every loss against a slow reference in float64.

The whole path is under test: what a stage trains on and minimises, its prior, what is frozen, its
learning rates, momentum and weight decay, BatchNorm's statistics. What is learned may differ from
`reference` by some ten-thousandths of the largest change of its array; what stays must stay as it
is, bit by bit.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from parity_problem import (
    DECAY,
    FEATURES,
    MOMENTUM,
    RATES,
    Case,
    exemplars,
    make_model,
    make_trainer,
    normalised,
    product_model,
)
from reference import problem as plain
from reference import training as slow
from reference.network import Arrays

from bsce_jax.data.plan import balanced_plan, epoch_plan
from bsce_jax.methods import METHODS
from bsce_jax.methods.criterion import CRITERIA
from bsce_jax.training.fit import Chunk, Work, choose_records, fit
from bsce_jax.training.problem import Problem

TOLERANCE = 1e-4


def both_stages(method: str, loss: str, *fields: tuple[str, Any]) -> tuple[Case, ...]:
    return tuple(Case(method, loss, stage, fields=fields) for stage in (0, 1))


FEW = (("train.batch_size", 5),)  # the first task has 9 images
BESIDE = (("train.replay_batch_size", 6), ("train.batch_size", 8))
DISTANCE = ("method.similarity", "distance")
COSINE = ("method.similarity", "cosine")
BITING = ("method.clamp", 0.1)
CASES = (
    # every method with the loss that it was published with
    Case("acil", task=0, fields=FEW),
    *both_stages("afc", "nca", DISTANCE, BITING),
    Case("bic"),
    Case("ccil", fields=BESIDE),
    Case("ccil", "balanced_softmax", fields=BESIDE),
    Case("der", task=0, fields=FEW),
    Case("der"),
    Case("der", "balanced_softmax"),
    Case("ds_al", task=0, fields=FEW),
    *both_stages("eeil", "cross_entropy"),
    Case("ewc"),
    Case("fetril", task=0, fields=FEW),
    Case("fetril"),
    Case("finetune"),
    Case("foster", task=0, fields=FEW),
    *both_stages("foster", "cross_entropy"),
    Case("foster", "balanced_softmax"),
    Case("icarl"),
    Case("icarl", "cross_entropy"),
    Case("il2m"),
    Case("il_baseline", task=0, fields=FEW),
    Case("il_baseline", "balanced_softmax"),
    Case("il_baseline", "cross_entropy"),
    Case("joint", fields=(("train.batch_size", 20),)),
    *both_stages("lucir", "cross_entropy"),
    *both_stages("lucir", "balanced_softmax"),
    Case("lucir", task=0, fields=FEW),
    Case("lwf"),
    Case("lwf_mc"),
    Case("memo"),
    Case("memo", task=0, fields=FEW),
    Case("pass"),
    Case("pass", "balanced_softmax"),
    Case("pass", task=0, fields=FEW),
    *both_stages("podnet", "nca", COSINE, BITING),
    *both_stages("podnet", "balanced_softmax", COSINE, BITING),
    *both_stages("podnet", "nca", DISTANCE, BITING),
    *both_stages("podnet", "balanced_softmax", DISTANCE, BITING),
    Case("replay"),
    Case("ss_il"),
    Case("wa"),
    # every loss by itself
    Case("replay", "balanced_softmax", fields=(("loss.tau", 0.7),)),
    Case("replay", "balanced_softmax", fields=(("train.replay_batch_size", 6),)),
    Case("finetune", "balanced_softmax", fields=(("loss.old_prior", 0.3),)),
    Case("replay", "balanced_softmax", fields=(("loss.prior", "task"),)),
    Case("replay", "separated_softmax"),
    Case("replay", "binary_cross_entropy"),
    Case("replay", "meta_balanced_softmax", fields=(("loss.learning_rate", 0.5),)),
    Case(
        "replay",
        "meta_balanced_softmax",
        fields=(("loss.learning_rate", 0.5), ("loss.per_class", True)),
    ),
    Case("podnet", "nca", fields=(COSINE, ("loss.reference_quirks", False))),
    Case("podnet", "balanced_nca", fields=(COSINE, ("loss.tau", 0.7))),
    Case("podnet", "balanced_nca", fields=(COSINE, ("loss.reference_quirks", False))),
)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_steps(case: Case) -> None:
    trainer = make_trainer(case)
    problem = trainer.problem
    stage = problem.all_stages(case.task)[case.stage]
    classes = (4, 6)[case.stage]  # the exemplars of the task's own classes come with the second
    chosen = exemplars(problem, classes)
    work = choose_records(problem, chosen, stage, case.task, case.stage, first_epoch=case.stage)
    start, teacher = make_model(case, 1), make_model(case, 2)
    state = trainer.start(product_model(start), stage)
    past = product_model(teacher) if stage.teacher != "none" else None
    (ours,) = fit(trainer, problem.network_of(case.task), work, state, past, 0)
    theirs = slow.train(
        slow_problem(problem, work, case), start, teacher, slow_batches(problem, work, case)
    )
    compare(ours, theirs, start)


def test_every_method_every_loss_and_every_stage_is_compared() -> None:
    own = lambda names: {n for n in names if names[n].__module__.startswith("bsce_jax.")}
    assert {case.method for case in CASES} == own(METHODS)
    losses = {make_trainer(case).problem.config.loss.name for case in CASES}
    assert losses == own(CRITERIA)
    for method in own(METHODS):
        cases = [case for case in CASES if case.method == method]
        stages = make_trainer(cases[0]).problem.all_stages(2)
        trained = {number for number, stage in enumerate(stages) if stage.epochs}
        assert {case.stage for case in cases if case.task == 2} == trained


def compare(ours: Chunk, theirs: slow.Result, start: plain.Model) -> None:
    assert ours.state is not None
    logged = dict(ours.metrics)
    np.testing.assert_allclose(logged.pop("accuracy"), theirs.accuracy, rtol=1e-6)
    np.testing.assert_allclose(
        logged.pop("loss"), [sum(terms.values()) for terms in theirs.terms], rtol=1e-4
    )
    logged.pop("scale", None)
    assert logged.keys() == theirs.terms[0].keys()
    for name, values in logged.items():
        expected = [terms[name] for terms in theirs.terms]
        np.testing.assert_allclose(values, expected, rtol=1e-4, err_msg=name)
    same_change(ours.state.model.params, theirs.params, start.params)
    same_change(ours.state.model.batch_stats, theirs.stats, start.stats)
    if ours.state.criterion is not None:
        learned = ours.state.criterion.value
        np.testing.assert_allclose(learned, theirs.old_weight, rtol=1e-3, atol=1e-6)


def same_change(ours: Any, theirs: Arrays, start: Arrays) -> None:
    flat = traverse_util.flatten_dict(ours, sep="/")
    assert flat.keys() == theirs.keys()
    for name, value in flat.items():
        value = np.asarray(value)
        stays = theirs[name] == start[name]
        np.testing.assert_array_equal(value[stays], start[name][stays], err_msg=name)
        change, expected = value - start[name], theirs[name] - start[name]
        rounding = np.spacing(np.abs(value).max())  # of a small change to a large number
        within = TOLERANCE * np.abs(expected).max() + rounding
        np.testing.assert_allclose(change, expected, rtol=0, atol=within, err_msg=name)


def slow_problem(problem: Problem, work: Work, case: Case) -> plain.Problem:
    config, scenario = problem.config, problem.scenario
    tasks = [
        range(scenario.classes_before(t), scenario.classes_after(t)) for t in range(case.task + 1)
    ]
    counts = np.zeros(tasks[-1].stop)
    for record in work.records:
        counts[problem.labels[record]] += 1
    replay = [] if work.replay is None else work.replay.tolist()
    for record in replay:
        # two batches with places for exemplars alone, each exemplar as often as the others
        counts[problem.labels[record]] += 2 * work.stage.replay_batch_size / len(replay)
    return plain.Problem(
        method=case.method,
        options=config.method.to_dict(),
        loss=config.loss.name,
        loss_options=config.loss.to_dict(),
        stage=case.stage,
        tasks=tasks,
        num_classes=scenario.num_classes,
        counts=counts,
        momentum=MOMENTUM,
        weight_decay=DECAY,
    )


def slow_batches(problem: Problem, work: Work, case: Case) -> list[plain.Batch]:
    seed, batch_size = problem.config.seed, problem.config.train.batch_size
    plan = epoch_plan(
        work.records,
        batch_size,
        seed=seed,
        task=case.task,
        epoch=work.first_epoch,
        replay=work.replay,
        replay_batch_size=work.stage.replay_batch_size,
    )
    assert len(plan.indices) == 2
    balanced: list[tuple[np.ndarray, np.ndarray] | None] = [None, None]
    if problem.criterion.learns:
        own = [work.records[problem.labels[work.records] == c] for c in range(6)]
        rows = balanced_plan(own, 2, batch_size, seed=seed, task=case.task, epoch=work.first_epoch)
        balanced = [(normalised(row), problem.labels[row]) for row in rows]
    rates = RATES[0 if case.method == "foster" else case.stage]
    if case.method in ("podnet", "afc") and case.stage == 1:
        rates = rates[:1] * 2  # constant
    return [
        plain.Batch(
            images=normalised(plan.indices[step]),
            labels=problem.labels[plan.indices[step]],
            real=np.flatnonzero(plan.weights[step]),
            replayed=np.arange(plan.indices.shape[1]) >= batch_size,
            learning_rate=rates[step],
            draws=draws(case, seed, step, plan.indices.shape[1]),
            balanced=balanced[step],
        )
        for step in range(2)
    ]


def noise(case: Case, key: jax.Array) -> dict[str, np.ndarray]:
    """Repeat the normal numbers of EEIL's noise, by parameter."""
    params = product_model(make_model(case, 1)).params
    flat = traverse_util.flatten_dict(params, sep="/")
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    numbers = [jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    drawn = traverse_util.flatten_dict(jax.tree.unflatten(tree, numbers), sep="/")
    return {name: np.asarray(drawn[name], np.float64) for name in flat}


def draws(case: Case, seed: int, step: int, batch: int) -> dict[str, np.ndarray]:
    """Repeat the random numbers of a step: a stage's key, and of it a step's."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), case.task), case.stage)
    # for the augmentation, the terms, the mixing and the transform of the gradients
    _, key, _, of_gradients = jax.random.split(jax.random.fold_in(key, step), 4)
    is_old = jnp.where(jnp.arange(8) < 4, 0.0, -jnp.inf)
    if case.method == "fetril":
        return {"pseudo": np.asarray(jax.random.categorical(key, is_old, shape=(batch,)))}
    if case.method == "eeil":
        return noise(case, of_gradients)
    if case.method == "pass":
        first, second = jax.random.split(key)
        batch = 4 * batch  # of turned images
        return {
            "prototypes": np.asarray(jax.random.categorical(first, is_old, shape=(batch,))),
            "noise": np.asarray(jax.random.normal(second, (batch, FEATURES))),
        }
    return {}
