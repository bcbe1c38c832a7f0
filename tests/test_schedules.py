"""The learning rates: the schedules by hand, and that they reach the updates."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import flat_images, main_stage, make_config

from bsce_jax.methods import Stage, Step, Terms
from bsce_jax.optim import learning_rates
from bsce_jax.training.fit import Work, fit
from bsce_jax.training.problem import Problem
from bsce_jax.training.trainer import Trainer


def stage(schedule: str, milestones: tuple[float, ...] = (0.5, 0.75)) -> Stage:
    return Stage(
        name="training",
        terms=Step.classification,  # type: ignore[arg-type]  # not looked at here
        epochs=1,
        learning_rate=0.8,
        schedule=schedule,
        milestones=milestones,
        decay=0.5,
    )


@pytest.mark.parametrize(
    ("steps", "wanted"),
    [
        (8, [0.8, 0.8, 0.8, 0.8, 0.4, 0.4, 0.2, 0.2]),
        (3, [0.8, 0.8, 0.2]),  # 1.5 and 2.25 both round to 2, and both count
        (2, [0.8, 0.4]),  # at 1, and at 2, which is after the end
        (1, [0.8]),  # none before the first step
    ],
)
def test_the_step_schedule(steps: int, wanted: list[float]) -> None:
    np.testing.assert_allclose(learning_rates(stage("step"), steps), wanted, rtol=1e-6)


def test_milestones_on_one_step_both_count_and_none_comes_before_the_first() -> None:
    early = stage("step", (0.01, 0.02, 0.9))
    np.testing.assert_allclose(learning_rates(early, 4), [0.8, 0.2, 0.2, 0.2], rtol=1e-6)
    np.testing.assert_allclose(learning_rates(stage("step", ()), 3), [0.8] * 3, rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_the_cosine_schedule(steps: int) -> None:
    wanted = [0.8 * (1 + np.cos(np.pi * t / steps)) / 2 for t in range(steps)]
    np.testing.assert_allclose(learning_rates(stage("cosine"), steps), wanted, rtol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_constant_schedule(steps: int) -> None:
    rates = learning_rates(stage("constant"), steps)
    assert rates.dtype == np.float32
    np.testing.assert_allclose(rates, [0.8] * steps, rtol=1e-6)


def first_bias(step: Step) -> Terms:
    """A loss whose gradient is 1: every step moves the bias down by its learning rate."""
    return {"bias": step.params["head"]["bias"][0] * jnp.ones(())}


@pytest.mark.parametrize("schedule", ["step", "cosine", "constant"])
def test_a_stage_uses_the_rates_of_its_schedule(
    schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {
        "model.name": "tiny_linear",
        "scenario.base": 2,
        "scenario.increment": 2,
        "train.batch_size": 4,
        "train.epochs": 4,
        "train.momentum": 0.0,
        "train.weight_decay": 0.0,
    }
    trainer = Trainer(Problem(make_config("replay", None, fields), flat_images([4, 4, 4, 4])))
    problem = trainer.problem
    monkeypatch.setattr(problem, "chunk_steps", lambda task, size=0: 3)
    this = dataclasses.replace(
        main_stage(problem), terms=first_bias, schedule=schedule, learning_rate=0.8, decay=0.5
    )
    records = np.concatenate(problem.records[:2])  # 2 batches an epoch, 8 steps, 3 chunks
    state = trainer.start(trainer.probe(problem.network).initial, this)
    work = Work(this, 0, 0, 0, records, None)
    bias = []
    end = 0.0
    for chunk in fit(trainer, problem.network, work, state, None, 0):
        bias += chunk.metrics["bias"].tolist()  # before each step
        if chunk.state is not None:
            end = float(chunk.state.model.params["head"]["bias"][0])
    assert len(bias) == 8
    used = -np.diff([*bias, end])
    by_hand = {
        "step": [0.8] * 4 + [0.4] * 2 + [0.2] * 2,
        "cosine": [0.4 * (1 + np.cos(np.pi * t / 8)) for t in range(8)],
        "constant": [0.8] * 8,
    }
    np.testing.assert_allclose(used, by_hand[schedule], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "first", "later", "wanted"),
    [
        ("learning_rate", 0.5, 0.0, [0.5, 0.5, 0.5]),
        ("learning_rate", 0.5, 0.01, [0.5, 0.01, 0.01]),
        ("epochs", 6, 0, [6, 6, 6]),
        ("epochs", 6, 2, [6, 2, 2]),
    ],
)
def test_later_tasks_may_have_values_of_their_own(
    name: str, first: float, later: float, wanted: list[float]
) -> None:
    fields = {f"train.{name}": first, f"train.later_{name}": later}
    fields |= {"scenario.base": 4, "scenario.increment": 3}
    problem = Problem(make_config("il_baseline", fields=fields), flat_images([4] * 10))
    assert [getattr(main_stage(problem, task), name) for task in range(3)] == wanted
