"""An update of the train step, against SGD written by hand; padding and idle steps do nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import assert_equal, flat_images, main_stage, make_config, moved

from bsce_jax.errors import UserError
from bsce_jax.methods import Step, TaskContext, Terms
from bsce_jax.training import fit
from bsce_jax.training.problem import Problem
from bsce_jax.training.state import Batches, TrainState
from bsce_jax.training.trainer import Trainer

MOMENTUM, DECAY = 0.9, 0.01
RATES = [0.5, 0.2]
SEEN = 3  # of 4 classes: the last row of the head is that of a class not seen yet


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    fields = {
        "model.name": "tiny_linear",
        "scenario.base": SEEN,
        "scenario.increment": 1,
        "train.momentum": MOMENTUM,
        "train.weight_decay": DECAY,
        "train.batch_size": 4,
    }
    made = make_config("replay", "cross_entropy", fields)
    return Trainer(Problem(made, flat_images([8, 8, 8, 8], (2, 3))))


def context(trainer: Trainer) -> TaskContext:
    problem = trainer.problem
    records = np.flatnonzero(problem.labels < SEEN)
    return fit.task_context(problem, fit.Work(main_stage(problem), 0, 0, 0, records, None))


def batches(trainer: Trainer, rows: list[list[int]], weights: list[list[float]]) -> Batches:
    records, steps = np.array(rows), np.arange(len(rows), dtype=np.int32)
    return Batches(
        images=trainer.feed.put(records),
        labels=jnp.asarray(trainer.problem.labels[records]),
        weights=jnp.asarray(weights, jnp.float32),
        learning_rate=jnp.asarray(RATES[: len(rows)], jnp.float32),
        step=jnp.asarray(steps),
        epoch=jnp.zeros_like(steps),
        balanced=None,
    )


def test_a_step_knows_its_epoch(trainer: Trainer) -> None:
    problem = trainer.problem
    records = np.flatnonzero(problem.labels < SEEN)
    work = fit.Work(main_stage(problem), 0, 0, 0, records, None)
    epoch = work.steps_per_epoch(problem.config.train.batch_size)
    assert epoch > 1
    made = fit._batches(trainer, work, total=3 * epoch, length=2 * epoch)
    np.testing.assert_array_equal(made(0).epoch, [0] * epoch + [1] * epoch)
    np.testing.assert_array_equal(made(2 * epoch).epoch, [2] * epoch + [0] * epoch)  # idle


def train(
    trainer: Trainer, rows: list[list[int]], weights: list[list[float]], start: TrainState
) -> tuple[TrainState, dict[str, jax.Array]]:
    problem = trainer.problem
    chunk = trainer.train_chunk(problem.network, main_stage(problem))
    state = jax.tree.map(jnp.copy, start)  # the chunk consumes what it is given
    key, constants = jax.random.key(0), trainer.feed.constants
    return chunk(state, None, context(trainer), key, constants, batches(trainer, rows, weights))


@pytest.fixture
def start(trainer: Trainer) -> TrainState:
    problem = trainer.problem
    return trainer.start(trainer.probe(problem.network).initial, main_stage(problem))


def by_hand(
    trainer: Trainer, start: TrainState, rows: list[list[int]], weights: list[list[float]]
) -> tuple[dict[str, np.ndarray], list[float]]:
    """Softmax regression over two matrices, in float64; PyTorch's SGD."""
    problem = trainer.problem
    params: dict[str, np.ndarray] = {
        "features": np.array(start.model.params["backbone"]["weight"], np.float64),
        "weight": np.array(start.model.params["head"]["weight"], np.float64),
        "bias": np.array(start.model.params["head"]["bias"], np.float64),
    }
    momenta = {name: np.zeros_like(value) for name, value in params.items()}
    losses = []
    for row, weight, rate in zip(rows, weights, RATES, strict=False):
        images = problem.dataset.train.images(row).reshape(len(row), -1) / 255
        features = images @ params["features"]
        logits = (features @ params["weight"].T + params["bias"])[:, :SEEN]
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        share = np.array(weight) / np.sum(weight)
        truth = np.eye(SEEN)[problem.labels[row]]
        losses.append(float(-(share * np.log((p * truth).sum(axis=1))).sum()))
        error = share[:, None] * (p - truth)  # of the loss by the logits
        head = params["weight"][:SEEN]
        gradients = {
            "features": images.T @ error @ head,
            "weight": error.T @ features,
            "bias": error.sum(axis=0),
        }
        for name, gradient in gradients.items():
            which = slice(None) if name == "features" else slice(SEEN)
            momenta[name][which] *= MOMENTUM
            momenta[name][which] += gradient + DECAY * params[name][which]
            params[name][which] = params[name][which] - rate * momenta[name][which]
    return params, losses


def test_two_updates_are_sgd_with_momentum_and_weight_decay(
    trainer: Trainer, start: TrainState
) -> None:
    rows, weights = [[0, 9, 17, 3], [11, 20, 5, 13]], [[1.0, 1.0, 1.0, 1.0]] * 2
    state, metrics = train(trainer, rows, weights, start)
    params, losses = by_hand(trainer, start, rows, weights)
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-5)
    ours = {"features": state.model.params["backbone"]["weight"], **state.model.params["head"]}
    for name, value in params.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    before = start.model.params["head"]
    for name in ("weight", "bias"):  # the class not seen is not even decayed
        np.testing.assert_array_equal(ours[name][SEEN:], before[name][SEEN:])


def test_the_accuracy_is_that_of_the_seen_classes(trainer: Trainer, start: TrainState) -> None:
    head = start.model.params["head"]
    bias = jnp.array([0.0, 50.0, 0.0, 100.0])  # class 1 wins; class 3 would, were it seen
    params = {**start.model.params, "head": {**head, "bias": bias}}
    forced = dataclasses.replace(start, model=dataclasses.replace(start.model, params=params))
    rows, weights = [[0, 8, 9, 16], [8, 9, 0, 1]], [[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 1.0]]
    _, metrics = train(trainer, rows, weights, forced)
    np.testing.assert_allclose(metrics["accuracy"], [50.0, 50.0])


def test_a_row_of_weight_0_does_nothing(trainer: Trainer, start: TrainState) -> None:
    this, these = train(trainer, [[0, 9, 17, 3]], [[1.0, 1.0, 1.0, 0.0]], start)
    that, those = train(trainer, [[0, 9, 17, 22]], [[1.0, 1.0, 1.0, 0.0]], start)
    assert_equal(this, that)
    assert_equal(these, those)
    # and the mean is over the samples alone: a batch without the padding is the same
    params, losses = by_hand(trainer, start, [[0, 9, 17]], [[1.0, 1.0, 1.0]])
    np.testing.assert_allclose(these["loss"], losses, rtol=1e-5)
    bias = this.model.params["head"]["bias"]
    np.testing.assert_allclose(bias, params["bias"], rtol=1e-5, atol=1e-6)


def test_an_idle_step_does_nothing(trainer: Trainer, start: TrainState) -> None:
    once, _ = train(trainer, [[0, 9, 17, 3]], [[1.0] * 4], start)
    then_idle, metrics = train(trainer, [[0, 9, 17, 3]] * 2, [[1.0] * 4, [0.0] * 4], start)
    assert any(jax.tree.leaves(moved(start, once)))
    assert_equal(once, then_idle)
    assert metrics["loss"][1] == 0


@pytest.mark.parametrize("name", ["loss", "accuracy", "scale"])
def test_a_term_may_not_be_called_as_what_is_logged_anyway(
    trainer: Trainer, start: TrainState, name: str
) -> None:
    problem = trainer.problem

    def terms(step: Step) -> Terms:
        return {"classification": step.classification(), name: jnp.zeros(())}

    stage = dataclasses.replace(main_stage(problem), terms=terms)
    chunk = trainer.train_chunk(problem.network, stage)
    some = batches(trainer, [[0, 9, 17, 3]], [[1.0] * 4])
    with pytest.raises(UserError, match=f"a loss term is called '{name}'.*call it something else"):
        chunk(start, None, context(trainer), jax.random.key(0), trainer.feed.constants, some)
