"""What a stage freezes stays, bit for bit, and costs nothing; the rest moves."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from tiny_run import flat_images, main_stage, make_config, moved, some_digits, train_stage

from bsce_jax.methods import ModelState, Stage, Step, Terms
from bsce_jax.training import fit
from bsce_jax.training.problem import Problem
from bsce_jax.training.state import TrainState
from bsce_jax.training.trainer import Trainer

OLD, SEEN = 2, 5  # of 6 classes


def scores(step: Step) -> Terms:
    return {"classification": step.classification(), "scores": step.mean(step.student.logits[:, 0])}


@pytest.fixture(scope="module")
def trainers() -> dict[str, Trainer]:
    """Three tasks; the linear head of replay, the cosine head of LUCIR."""
    order = {"scenario.class_order": "0,1,2,3,4,5", "train.epochs": 1, "train.batch_size": 16}
    fields = {"scenario.base": OLD, "scenario.increment": 3, **order}
    return {
        method: Trainer(Problem(make_config(method, "balanced_softmax", fields), some_digits(8)))
        for method in ("replay", "lucir")
    }


def train(trainer: Trainer, **changes: Any) -> tuple[ModelState, TrainState]:
    """Train the second task on its new images and four of each old class: before and after."""
    problem = trainer.problem
    stage = dataclasses.replace(main_stage(problem, 0), **{"schedule": "constant", **changes})
    records = np.concatenate([r[:4] for r in problem.records[:OLD]] + problem.records[OLD:SEEN])
    after = train_stage(trainer, stage, records, task=1)
    return trainer.probe(problem.network).initial, after


def rows_that_moved(before: ModelState, after: TrainState, name: str) -> list[bool]:
    a, b = (np.asarray(m.params["head"][name]) for m in (before, after.model))
    return [bool((x != y).any()) for x, y in zip(a, b, strict=True)]


@pytest.mark.parametrize("freeze", [False, True])
def test_rows_of_unseen_classes_stay_and_those_of_old_ones_if_told(
    trainers: dict[str, Trainer], freeze: bool
) -> None:
    before, after = train(trainers["replay"], freeze_old_rows=freeze)
    for name in ("weight", "bias"):
        wanted = [not freeze] * OLD + [True] * 3 + [False]
        assert rows_that_moved(before, after, name) == wanted
    assert moved(before.batch_stats, after.model.batch_stats)["backbone"]["BatchNorm_0"] == {
        "mean": True,
        "var": True,
    }
    assert all(jax.tree.leaves(moved(before.params, after.model.params)))


def test_a_frozen_backbone_stays_and_has_no_momentum(trainers: dict[str, Trainer]) -> None:
    before, after = train(trainers["replay"], trainable=("head",), batch_norm="frozen")
    assert not any(
        jax.tree.leaves(moved(before.params["backbone"], after.model.params["backbone"]))
    )
    assert moved(before.params["head"], after.model.params["head"]) == {
        "bias": True,
        "weight": True,
    }
    shapes = [leaf.shape for leaf in jax.tree.leaves(after.opt_state)]
    assert sorted(shapes) == sorted(leaf.shape for leaf in jax.tree.leaves(before.params["head"]))


def test_frozen_statistics_stay_and_others_move(trainers: dict[str, Trainer]) -> None:
    for mode, moves in (("frozen", False), ("train", True)):
        before, after = train(trainers["replay"], trainable=("head",), batch_norm=mode)
        changed = jax.tree.leaves(moved(before.batch_stats, after.model.batch_stats))
        assert changed == [moves] * 2


def test_frozen_batch_norm_looks_through_the_running_statistics(
    trainers: dict[str, Trainer],
) -> None:
    """With rates of 0 and a batch of all records, the logged score is that of eval mode."""
    trainer = trainers["replay"]
    problem = trainer.problem
    stage = dataclasses.replace(main_stage(problem), terms=scores, learning_rate=1e-30)
    records = problem.records[0]
    model = trainer.probe(problem.network).initial
    logits = {}
    for mode in ("frozen", "train"):
        this = dataclasses.replace(stage, batch_norm=mode)
        state = trainer.start(model, this)
        work = fit.Work(this, 0, 0, 0, records, None)
        *_, last = fit.fit(trainer, problem.network, work, state, None, 0)
        logits[mode] = last.metrics["scores"][0]
    wanted = trainer.probe(problem.network).logits(model, records)[:, 0].mean()
    np.testing.assert_allclose(logits["frozen"], wanted, rtol=1e-5)
    assert abs(logits["train"] - wanted) > 1e-3


@pytest.mark.parametrize(("method", "stays"), [("lucir", "scale"), ("replay", "bias")])
def test_class_vectors_alone(trainers: dict[str, Trainer], method: str, stays: str) -> None:
    before, after = train(trainers[method], trainable=("head/weight",), batch_norm="frozen")
    assert not any(
        jax.tree.leaves(moved(before.params["backbone"], after.model.params["backbone"]))
    )
    assert moved(before.params["head"], after.model.params["head"]) == {
        stays: False,
        "weight": True,
    }
    (trace,) = jax.tree.leaves(after.opt_state)
    assert trace.shape == before.params["head"]["weight"].shape


def test_the_scale_moves_where_it_is_trained(trainers: dict[str, Trainer]) -> None:
    before, after = train(trainers["lucir"], terms=trainers["lucir"].problem.method.classification)
    assert moved(before.params["head"], after.model.params["head"])["scale"]


def test_unknown_parameters_are_refused(trainers: dict[str, Trainer]) -> None:
    with pytest.raises(ValueError, match="no parameter is called head/wieght: there are backbone"):
        train(trainers["replay"], trainable=("head/wieght",))


def test_parts_exclude_turns(trainers: dict[str, Trainer]) -> None:
    with pytest.raises(ValueError, match="has turns and batch_norm='parts': choose one"):
        train(trainers["replay"], batch_norm="parts", turns=True)


def test_what_is_frozen_costs_no_backward_pass() -> None:
    """The program of a frozen backbone counts the operations of a forward pass, and few more."""
    fields = {"model.name": "small", "scenario.base": 2, "scenario.increment": 2}
    made = make_config("replay", "cross_entropy", {**fields, "train.batch_size": 8})
    trainer = Trainer(Problem(made, flat_images([8] * 4, (8, 8))))
    problem = trainer.problem
    model = trainer.probe(problem.network).initial

    def flops(stage: Stage) -> float:
        work = fit.Work(stage, 0, 0, 0, problem.records[0], None)
        batches = fit._batches(trainer, work, 1, 1)(0)
        state, task = trainer.start(model, stage), fit.task_context(problem, work)
        chunk = trainer.train_chunk(problem.network, stage)
        key, constants = jax.random.key(0), trainer.feed.constants
        lowered = chunk.lower(state, None, task, key, constants, batches)  # type: ignore[attr-defined]  # of jax.jit
        # before XLA removes dead code: what is frozen is not there to remove
        return float(lowered.cost_analysis()["flops"])

    images = trainer.probe(problem.network).images(problem.records[0])
    apply = jax.jit(lambda model, x: problem.network.apply(model.variables, x, train=False))
    cost = apply.lower(model, images).cost_analysis()
    assert cost is not None
    forward = cost["flops"]
    whole = main_stage(problem)
    head = dataclasses.replace(whole, trainable=("head",), batch_norm="frozen")
    assert flops(head) < 1.05 * forward
    assert flops(head) < flops(whole) / 2
