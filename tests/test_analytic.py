"""Heads that are solved: ACIL and DS-AL against the authors' recursion, written out."""

import itertools
import pathlib
import tracemalloc
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import make_config, some_digits, weights

from bsce_jax.methods import ModelState, TaskInfo
from bsce_jax.methods.acil import ACIL, DSAL, SCALE
from bsce_jax.runs.saved import SavedRun
from bsce_jax.training.loop import run

WIDTH, DIM = 7, 4
COUNTS = (6, 3, 5, 4, 8)  # images of each class
LABELS = np.repeat(np.arange(5), COUNTS)
FEATURES = np.random.default_rng(0).normal(size=(len(LABELS), DIM)).astype(np.float32)
FEATURES += LABELS[:, None] * np.array([1, -1, 0.5, 0], np.float32)
DIGITS = some_digits(20, 8)


class Features:
    """A probe whose records have these features."""

    def features(self, model: ModelState, records: np.ndarray) -> np.ndarray:
        return FEATURES[records]


PROBE: Any = Features()  # has no more than `features`


def learn(method: ACIL, tasks: list[int]) -> dict[str, Any]:
    """The method's arrays after tasks of so many classes."""
    head = {"weight": jnp.zeros((6, DIM))}  # one class is never seen
    model = ModelState({"head": head}, {}, method.init_extra({"head": head}, 6))
    old = 0
    for index, count in enumerate(tasks):
        seen = old + count
        train = np.flatnonzero(np.isin(LABELS, range(old, seen)))
        info = TaskInfo(index, old, seen, 3, LABELS, train, np.array([], int), False)
        model = method.end_training(model, info, PROBE)
        old = seen
    return model.extra


def scores(method: ACIL, extra: dict[str, Any]) -> np.ndarray:
    logits = jnp.zeros((len(FEATURES), 6)).at[:, 5].set(-jnp.inf)
    return np.asarray(method.predict(logits, jnp.asarray(FEATURES), extra)) / SCALE


def recursion(z: np.ndarray, targets: np.ndarray, tasks: list[slice], gamma: float) -> np.ndarray:
    """ACIL's equations 9 and 10: the inverse and the head are updated task by task."""
    inverse, head = np.eye(z.shape[1]) / gamma, np.zeros((z.shape[1], targets.shape[1]))
    for part in tasks:
        x, y = z[part], targets[part]
        inside = np.linalg.inv(np.eye(len(x)) + x @ inverse @ x.T)
        inverse = inverse - inverse @ x.T @ inside @ x @ inverse
        head = head + inverse @ x.T @ (y - x @ head)
    return head


def parts(tasks: list[int]) -> list[slice]:
    ends = np.cumsum([0, *(sum(COUNTS[c] for c in range(a, b)) for a, b in spans(tasks))])
    return [slice(*pair) for pair in itertools.pairwise(ends)]


def spans(tasks: list[int]) -> list[tuple[int, int]]:
    ends = np.cumsum([0, *tasks]).tolist()
    return list(itertools.pairwise(ends))


@pytest.mark.parametrize("tasks", [[5], [2, 3], [2, 1, 1, 1]])
def test_acil_is_the_authors_recursion(tasks: list[int]) -> None:
    method = ACIL(width=WIDTH, gamma=0.3)
    extra = learn(method, tasks)
    z = np.maximum(FEATURES @ np.asarray(extra["expansion"]["projection"], np.float64), 0)
    head = recursion(z, np.eye(5)[LABELS], parts(tasks), 0.3)
    np.testing.assert_allclose(extra["main"]["ridge"][:5], head.T, atol=1e-6)
    np.testing.assert_array_equal(extra["main"]["ridge"][5], 0)
    found = scores(method, extra)
    np.testing.assert_allclose(found[:, :5], z @ head, atol=1e-5)
    assert (found[:, 5] == -np.inf).all()


def test_the_sums_stay_exact_where_float32_would_not() -> None:
    # the ridge is tiny beside the sums, as with thousands of images: float32 sums would swamp it
    found = [
        learn(ACIL(width=WIDTH, gamma=1e-6), tasks)["main"]["ridge"] for tasks in ([5], [1] * 5)
    ]
    np.testing.assert_allclose(found[0], found[1], atol=1e-4 * np.abs(found[0]).max())


def test_balanced_images_are_as_good_as_repeated_ones() -> None:
    method = ACIL(width=WIDTH, gamma=0.3, balance=True)
    extra = learn(method, [2, 3])
    z = np.maximum(FEATURES @ np.asarray(extra["expansion"]["projection"], np.float64), 0)
    # each class counts as 4.5 images, the mean of the first task's
    weight = 4.5 / np.array(COUNTS, float)[LABELS]
    gram = (z * weight[:, None]).T @ z + 0.3 * np.eye(WIDTH)
    head = np.linalg.solve(gram, (z * weight[:, None]).T @ np.eye(5)[LABELS])
    np.testing.assert_allclose(extra["main"]["ridge"][:5], head.T, atol=1e-6)


def test_ds_al_fits_the_residuals_of_new_classes() -> None:
    method = DSAL(width=WIDTH, gamma=0.3, ratio=0.7)
    tasks = [2, 3]
    extra = learn(method, tasks)
    projected = FEATURES @ np.asarray(extra["expansion"]["projection"], np.float64)
    z, second = np.maximum(projected, 0), np.tanh(projected)
    targets = np.eye(5)[LABELS]
    left = np.zeros_like(targets)
    for number, (part, (old, seen)) in enumerate(zip(parts(tasks), spans(tasks), strict=True)):
        head = recursion(z, targets, parts(tasks)[: number + 1], 0.3)
        left[part] = targets[part] - z[part] @ head
        left[part, :old], left[part, seen:] = 0, 0
    compensation = recursion(second, left, parts(tasks), 0.3)
    wanted = z @ recursion(z, targets, parts(tasks), 0.3) + 0.7 * second @ compensation
    np.testing.assert_allclose(scores(method, extra)[:, :5], wanted, atol=1e-5)


@pytest.mark.parametrize("method", [ACIL(width=256), DSAL(width=256)])
def test_the_expanded_features_are_not_in_memory_all_at_once(method: ACIL) -> None:
    labels = np.repeat(np.arange(5), 10_000)
    features = np.random.default_rng(0).normal(size=(len(labels), DIM)).astype(np.float32)
    probe: Any = SimpleNamespace(features=lambda model, records: features[records])
    head = {"weight": jnp.zeros((5, DIM))}
    model = ModelState({"head": head}, {}, method.init_extra({"head": head}, 5))
    info = TaskInfo(0, 0, 5, 3, labels, np.arange(len(labels)), np.array([], int), False)
    tracemalloc.start()
    try:
        method.end_training(model, info, probe)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(labels) * method.width * 8 / 2


def test_a_run_ends_the_same_whatever_its_later_tasks_are(tmp_path: pathlib.Path) -> None:
    fields = {"method.width": 32, "train.epochs": 2}
    last, models = [], []
    for increment in (5, 2):
        made = make_config("acil", fields={**fields, "scenario.increment": increment})
        results = run(made, tmp_path / str(increment), DIGITS)
        last.append(results["cnn"]["last"])
        assert results["nme"] is None
        models.append(weights(tmp_path / str(increment), len(results["tasks"]) - 1))
    assert last[0] == last[1] > 50
    for name in models[0]:
        np.testing.assert_allclose(models[0][name], models[1][name], rtol=1e-4, atol=1e-6)
    saved = SavedRun.open(tmp_path / "5")
    found = saved.predict(DIGITS.test.images(range(80)))
    labels = [int(saved.class_names[i]) for i in found.argmax(1)]
    assert 100 * np.mean(labels == DIGITS.test.labels) == pytest.approx(last[0])
    certainty = jax.nn.softmax(jnp.asarray(found)).max(axis=1).mean()
    np.testing.assert_allclose(certainty, last[0] / 100, atol=0.1)
