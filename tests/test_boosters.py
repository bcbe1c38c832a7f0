"""What makes any method better: running averages, SAM, warm-up, the first task, mirror images."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from method_tools import REAL, STUDENT, TEACHER, divergence, make_step
from test_schedules import stage
from tiny_run import (
    assert_same_run,
    flat_images,
    main_stage,
    make_config,
    run_with_interruption,
    some_digits,
    train_stage,
    without_timing,
)

from bsce_jax.errors import UserError
from bsce_jax.methods import Method, ModelState
from bsce_jax.optim import learning_rates
from bsce_jax.runs.saved import SavedRun
from bsce_jax.training.first_task import SelfDistilled, decorrelation
from bsce_jax.training.loop import run
from bsce_jax.training.problem import Problem
from bsce_jax.training.state import averaged
from bsce_jax.training.trainer import Trainer

RATE, DECAY = 0.1, 0.01
Arrays = dict[str, np.ndarray]


def test_the_learning_rate_rises_to_its_schedule() -> None:
    rising = dataclasses.replace(stage("cosine"), epochs=4, warmup=2)
    plain = learning_rates(dataclasses.replace(rising, warmup=0), 8)
    wanted = plain * [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]
    np.testing.assert_allclose(learning_rates(rising, 8), wanted, rtol=1e-6)
    assert rising.balanced_finetuning().warmup == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train.epochs": 2}, "train.warmup is 3, and a stage of task 1 has 2 epochs"),
        ({"train.later_epochs": 2}, "train.warmup is 3, and a stage of task 2 has 2 epochs"),
    ],
)
def test_a_rise_that_does_not_end_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Problem(make_config("il_baseline", fields={"train.warmup": 3, **fields}), DATA)
    Problem(make_config("acil", fields={"train.warmup": 3}), DATA)  # its later stages train nothing


# --- steps of a linear network, written out


def trainer_of(**fields: Any) -> Trainer:
    made = make_config(
        "replay",
        "cross_entropy",
        {
            "model.name": "tiny_linear",
            "scenario.base": 3,
            "scenario.increment": 1,
            "train.momentum": 0.0,
            "train.weight_decay": DECAY,
            "train.learning_rate": RATE,
            "train.schedule": "constant",
            "train.epochs": 3,
            **{f"train.{name}": value for name, value in fields.items()},
        },
    )
    return Trainer(Problem(made, flat_images([4, 4, 4, 4], (2, 3))))


def gradient(params: Arrays, images: np.ndarray, labels: np.ndarray) -> Arrays:
    """The gradient of the cross-entropy over three classes."""
    features = images @ params["first"]
    logits = features @ params["weight"][:3].T + params["bias"][:3]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    by_logits = np.zeros((len(labels), 4))
    by_logits[:, :3] = (p - np.eye(3)[labels]) / len(labels)
    return {
        "first": images.T @ (by_logits @ params["weight"]),
        "weight": by_logits.T @ features,
        "bias": by_logits.sum(0),
    }


def by_hand(
    trainer: Trainer, steps: int, radius: float = 0.0, flatness: float = 0.0
) -> list[Arrays]:
    """The parameters before and after each step of whole batches."""
    problem = trainer.problem
    records = np.flatnonzero(problem.labels < 3)
    pixels = np.asarray(problem.dataset.train.images(records), np.float64) / 255
    images = ((pixels - problem.dataset.mean) / problem.dataset.std).reshape(len(records), -1)
    labels = problem.labels[records]
    start = arrays(trainer.probe(problem.network).initial)
    path = [start]

    def moved(place: Arrays, direction: Arrays) -> Arrays:
        length = np.sqrt(sum((d**2).sum() for d in direction.values()))
        return {name: place[name] + radius * direction[name] / length for name in place}

    for _ in range(steps):
        now = path[-1]
        slope = gradient(now, images, labels)
        if radius:
            plain = slope
            slope = gradient(moved(now, plain), images, labels)
            # C-Flat's code: g_1 + lamb (g_3 - g_2), g_2 and g_3 uphill from one another
            aside = moved(now, {name: slope[name] - plain[name] for name in now})
            second = gradient(aside, images, labels)
            third = gradient(moved(aside, second), images, labels)
            slope = {n: slope[n] + flatness * (third[n] - second[n]) for n in now}
        rows = np.array([1.0, 1, 1, 0])  # the fourth class is not seen yet
        after = {}
        for name, value in now.items():
            change = RATE * (slope[name] + DECAY * value)
            seen = 1.0 if name == "first" else rows.reshape(-1, *[1] * (value.ndim - 1))
            after[name] = value - change * seen
        path.append(after)
    return path


def arrays(model: ModelState) -> Arrays:
    head = model.params["head"]
    found = {"first": model.params["backbone"]["weight"], **head}
    return {name: np.asarray(value, np.float64) for name, value in found.items()}


def trained(trainer: Trainer) -> ModelState:
    records = np.flatnonzero(trainer.problem.labels < 3)
    return train_stage(trainer, main_stage(trainer.problem), records).outcome


def test_sam_takes_the_gradient_from_uphill() -> None:
    trainer = trainer_of(sharpness=0.3)
    found, wanted = arrays(trained(trainer)), by_hand(trainer, 3, radius=0.3)[-1]
    plain = by_hand(trainer, 3)[-1]
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4, atol=1e-6)
        assert np.abs(wanted[name] - plain[name]).max() > 1e-4


def test_c_flat_adds_the_flatness_of_its_code() -> None:
    trainer = trainer_of(sharpness=0.3, flatness=0.5)
    found, wanted = arrays(trained(trainer)), by_hand(trainer, 3, 0.3, 0.5)[-1]
    sam = by_hand(trainer, 3, 0.3)[-1]
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4, atol=1e-6)
        assert np.abs(wanted[name] - sam[name]).max() > 1e-4
    with pytest.raises(UserError, match=r"train\.sharpness 0: C-Flat needs its radius"):
        trainer_of(flatness=0.5)


def test_a_stage_ends_with_the_running_average() -> None:
    trainer = trainer_of(average=0.15)
    path = by_hand(trainer, 3)
    average = path[0]
    for step, now in enumerate(path[1:]):
        decay = min(0.15, (1 + step) / (10 + step))
        average = {n: decay * average[n] + (1 - decay) * now[n] for n in now}
    found = arrays(trained(trainer))
    for name in average:
        np.testing.assert_allclose(found[name], average[name], rtol=1e-4, atol=1e-6)
        assert np.abs(average[name] - path[-1][name])[:3].max() > 1e-5


@settings(max_examples=30, deadline=None)
@given(st.floats(-1e6, 1e6, width=32), st.integers(0, 10**6), st.floats(0.0, 0.9999))
def test_what_stays_is_its_own_average(value: float, step: int, decay: float) -> None:
    model = ModelState({"a": jnp.float32(value)}, {"count": jnp.int32(3)}, {})
    after = averaged(model.variables, model, decay, jnp.int32(step))
    assert after["params"]["a"] == jnp.float32(value)
    assert after["batch_stats"]["count"] == 3


# --- the first task


def slow_decorrelation(features: np.ndarray, labels: np.ndarray) -> float:
    """The code of CwD, class by class: Z^T Z is n - 1 times the matrix of correlations."""
    total, samples = 0.0, 0
    for label in np.unique(labels):
        own = features[labels == label]
        if len(own) < 2:
            continue
        matrix = (len(own) - 1) * np.corrcoef(own.T)
        total += (matrix[~np.eye(len(matrix), dtype=bool)] ** 2).mean()
        samples += len(own)
    return total / samples if samples else 0.0


def test_decorrelation_is_that_of_the_published_code() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(14, 5)) @ rng.normal(size=(5, 5))
    labels = np.array([0, 1, 1, 2, 2, 2, 0, 0, 3, 1, 2, 0, 1, 2])  # one sample of class 3
    real = np.array([1.0] * 12 + [0.0] * 2)
    found = decorrelation(jnp.float32(features), jnp.asarray(labels), jnp.float32(real))
    np.testing.assert_allclose(found, slow_decorrelation(features[:12], labels[:12]), rtol=1e-4)


def test_decorrelation_is_zero_and_has_a_gradient_without_pairs() -> None:
    features = jnp.float32(np.random.default_rng(0).normal(size=(4, 3)))
    value = lambda x: decorrelation(x, jnp.arange(4), jnp.ones(4))
    assert value(features) == 0
    assert not jnp.any(jax.grad(value)(features))
    alike = jnp.ones((4, 3))  # no variance
    same = lambda x: decorrelation(x, jnp.zeros(4, int), jnp.ones(4))
    assert np.isfinite(jax.grad(same)(alike)).all()


def test_self_distillation_adds_a_fifth_of_the_divergence_over_the_classes_seen() -> None:
    terms = SelfDistilled(Method().terms)(make_step())
    seen = np.array([True] * 5 + [False])
    wanted = 0.2 * divergence(STUDENT, TEACHER, seen)[REAL].mean()
    np.testing.assert_allclose(terms["self_distillation"], wanted, rtol=1e-5)
    assert terms.keys() == {"classification", "self_distillation"}


FIELDS = {
    "train.average": 0.9,
    "train.decorrelation": 0.5,
    "train.self_distillation_epochs": 2,
    "train.warmup": 1,
    "model.flip": True,
    "runtime.checkpoint_epochs": 1,
    "runtime.keep_models": "all",
}
DATA = some_digits(12, 6)


@pytest.fixture(scope="module")
def boosted(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("boosted") / "run"
    return folder, run(make_config("il_baseline", fields=FIELDS), folder, DATA)


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("stopped", {"task": 0, "stage": 0, "epoch": 3}),  # after the last step of the stage
        ("killed", {"task": 0, "stage": 1, "epoch": 2}),
        ("stopped", {"task": 1, "stage": 0, "epoch": 2}),
    ],
)
def test_it_resumes(
    boosted: tuple[pathlib.Path, dict[str, Any]],
    tmp_path: pathlib.Path,
    kind: str,
    place: dict[str, int],
) -> None:
    made = make_config("il_baseline", fields=FIELDS)
    results = run_with_interruption(made, DATA, tmp_path, kind, **place)
    assert without_timing(results) == without_timing(boosted[1])
    for task in (0, 1):
        assert_same_run(tmp_path, boosted[0], task)


def test_only_the_first_task_has_more_stages() -> None:
    problem = Problem(make_config("il_baseline", fields=FIELDS), DATA)
    first, second = problem.all_stages(0)
    assert (first.teacher, second.teacher, second.epochs) == ("none", "start", 2)
    assert (second.schedule, second.warmup) == ("cosine", 0)
    assert [stage.teacher for stage in problem.all_stages(1)] == ["previous"]


def test_predictions_are_of_both_views(boosted: tuple[pathlib.Path, dict[str, Any]]) -> None:
    folder, results = boosted
    assert results["flip"] is True
    saved = SavedRun.open(folder)
    images = DATA.test.images(np.arange(len(DATA.test.labels)))
    with np.load(folder / "predictions" / "task_01.npz") as file:
        cnn, nme = file["cnn_top5"], file["nme_top5"]
    np.testing.assert_array_equal(saved.predict(images).argmax(axis=1), cnn[:, 0])
    np.testing.assert_array_equal(saved.predict(images, by="nme").argmax(axis=1), nme[:, 0])
    one_view = SavedRun.open(folder)
    one_view.config = one_view.config.copy_and_resolve_references()
    with one_view.config.unlocked():
        one_view.config.model.flip = False
    both = (one_view.predict(images) + one_view.predict(images[:, :, ::-1])) / 2
    np.testing.assert_allclose(saved.predict(images), both, rtol=1e-4, atol=1e-5)
