"""The reported numbers against a run worked out by hand and definitions written as slow loops."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsce_jax import metrics
from bsce_jax.scenario import class_order, make_scenario

Outcome = tuple[np.ndarray, np.ndarray]


def outcome(*groups: list[tuple[int, int]]) -> Outcome:
    """Makes an outcome of (label, best prediction); label + 100 is always second best."""
    pairs = [pair for group in groups for pair in group]
    labels = np.array([label for label, _ in pairs])
    best = np.array([prediction for _, prediction in pairs])
    rest = np.full(len(pairs), -1)
    return labels, np.stack([best, labels + 100, rest, rest, rest], axis=1)


# Three tasks of 1, 3 and 2 classes.
TASKS = ((7,), (2, 5, 0), (9, 4))
BY_HAND = [
    outcome([(7, 7), (7, 7), (7, 7), (7, 7)]),  # 4 of 4
    outcome(
        [(7, 7), (7, 2), (7, 7), (7, 7)],  # 3 of 4
        [(2, 2), (2, 7), (5, 5), (5, 2), (0, 0), (0, 7)],  # 3 of 6
    ),
    outcome(
        [(7, 9), (7, 9), (7, 7), (7, 2)],  # 1 of 4
        [(2, 2), (2, 2), (5, 5), (5, 9), (0, 0), (0, 9)],  # 4 of 6, better than before
        [(9, 9), (9, 9), (4, 4), (4, 9), (4, 4)],  # 4 of 5
    ),
]


def test_a_run_by_hand() -> None:
    found = metrics.summarize(BY_HAND, TASKS)
    expected = {
        "accuracy": [100.0, 60.0, 60.0],
        "average_incremental": 220 / 3,
        "last": 60.0,
        "top5": [100.0, 60.0, 60.0],
        # classes 7, 2, 5, 0; and with 9 and 4
        "class_mean": [100.0, (75 + 3 * 50) / 4, (25 + 100 + 50 + 50 + 100 + 200 / 3) / 6],
        "old": [None, 75.0, 50.0],
        "new": [100.0, 50.0, 80.0],
        # task 0 falls from 100 to 25, task 1 rises from 50 to 66.67
        "forgetting": ((100 - 25) + (50 - 200 / 3)) / 2,
    }
    assert found.keys() == {*expected, "matrix"}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value), name
    assert found["matrix"][0] == [100.0, None, None]
    assert found["matrix"][1] == [75.0, 50.0, None]
    assert found["matrix"][2] == pytest.approx([25.0, 200 / 3, 80.0])


def test_what_is_over_is_reported_while_a_run_is_on() -> None:
    found = metrics.summarize(BY_HAND[:1], TASKS)
    assert found["matrix"] == [[100.0]]
    assert (found["forgetting"], found["old"]) == (None, [None])
    found = metrics.summarize(BY_HAND[:2], TASKS)
    assert found["matrix"] == [[100.0, None], [75.0, 50.0]]
    assert found["forgetting"] == pytest.approx(25.0)


def test_forgetting_counts_tasks_whatever_their_size() -> None:
    # Ten classes: grouped by ten they would be one task, of which nothing could be forgotten.
    tasks = [tuple(range(5)), *((c,) for c in range(5, 10))]
    labels = [np.arange(5 + t) for t in range(6)]
    # Every task is right when it is new, and every image is taken for the newest class after that.
    outcomes = [(labels[0], labels[0][:, None])]
    outcomes += [(own, np.full((len(own), 1), own[-1])) for own in labels[1:]]
    found = metrics.summarize(outcomes, tasks)
    assert found["forgetting"] == 100.0
    assert [row[t] for t, row in enumerate(found["matrix"])] == [100.0] * 6


def test_a_task_that_was_not_measured_before_is_not_forgotten() -> None:
    matrix: metrics.Matrix = [[90.0, None, None], [80.0, None, None], [70.0, 50.0, 30.0]]
    assert metrics.forgetting(matrix) == pytest.approx(90 - 70)


def test_forgetting_looks_back_at_the_best_and_not_at_the_first() -> None:
    matrix: metrics.Matrix = [[50.0, None, None], [90.0, 40.0, None], [70.0, 30.0, 20.0]]
    assert metrics.forgetting(matrix) == pytest.approx(((90 - 70) + (40 - 30)) / 2)


def test_top_k_counts_the_k_best() -> None:
    labels = np.array([0, 1, 2, 3])
    predictions = np.array([[0, 1, 2], [2, 1, 0], [0, 1, 2], [1, 0, -1]])
    found = [metrics.top_k_accuracy(labels, predictions, k) for k in (1, 2, 3, 5)]
    assert found == [25.0, 50.0, 75.0, 75.0]
    assert metrics.accuracy(labels, predictions) == 25.0


def test_a_task_without_test_images_has_no_accuracy() -> None:
    outcomes = [outcome([(7, 7)]), outcome([(7, 2)]), outcome([(7, 2), (9, 9)])]
    found = metrics.summarize(outcomes, TASKS)
    assert found["matrix"] == [[100.0, None, None], [0.0, None, None], [0.0, None, 100.0]]
    assert found["new"] == [100.0, None, 100.0]
    assert found["forgetting"] == 100.0


@pytest.mark.parametrize(
    ("labels", "predictions"),
    [
        (np.zeros(3), np.zeros(3)),
        (np.zeros((3, 1)), np.zeros((3, 5))),
        (np.zeros(3), np.zeros((4, 5))),
        (np.zeros(0), np.zeros((0, 5))),
        (np.zeros(3), np.zeros((3, 0))),
    ],
)
def test_wrong_shapes_are_refused(labels: np.ndarray, predictions: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"should be \[n\]|no predictions"):
        metrics.top_k_accuracy(labels, predictions, 5)


def test_images_of_classes_to_come_are_refused() -> None:
    with pytest.raises(ValueError, match="1 test images after task 0 are of classes not seen"):
        metrics.summarize([outcome([(7, 7), (2, 7)]), BY_HAND[1]], TASKS)


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[Outcome], tuple[tuple[int, ...], ...]]:
    """A scenario of any protocol, and random predictions in all or the first of its tasks."""
    count = draw(st.integers(2, 13))
    base = draw(st.integers(0, count))
    increment = draw(st.integers(1, max(1, count - base)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scenario = make_scenario(class_order(int(rng.integers(99)), count), base, increment)
    outcomes = []
    for task in range(draw(st.integers(1, scenario.num_tasks))):
        seen = scenario.class_order[: scenario.classes_after(task)]
        labels = rng.permutation(np.repeat(seen, rng.integers(1, 4, size=len(seen))))
        predictions = np.full((len(labels), 5), -1)
        for row in predictions:
            best = rng.permutation(seen)[:5]
            row[: len(best)] = best
        outcomes.append((labels, predictions))
    return outcomes, scenario.tasks


def slow_summary(outcomes: list[Outcome], tasks: tuple[tuple[int, ...], ...]) -> dict[str, Any]:
    """The definitions, image by image."""

    def percent(t: int, classes: list[int], k: int = 1) -> Any:
        right = total = 0
        for label, row in zip(*outcomes[t], strict=True):
            if label in classes:
                total += 1
                right += label in list(row)[:k]
        return 100 * right / total

    seen = [[c for task in tasks[: t + 1] for c in task] for t in range(len(outcomes))]
    last = len(outcomes) - 1
    a: list[list[Any]] = [
        [percent(t, list(tasks[k])) if k <= t else None for k in range(last + 1)]
        for t in range(last + 1)
    ]
    lost = 0.0
    for k in range(last):
        best = -1.0
        for t in range(k, last):
            best = max(best, a[t][k])
        lost += best - a[last][k]
    accuracy = [percent(t, seen[t]) for t in range(last + 1)]
    return {
        "accuracy": accuracy,
        "average_incremental": sum(accuracy) / len(accuracy),
        "last": accuracy[-1],
        "top5": [percent(t, seen[t], 5) for t in range(last + 1)],
        "class_mean": [
            sum(each := [percent(t, [c]) for c in seen[t] if c in outcomes[t][0]]) / len(each)
            for t in range(last + 1)
        ],
        "matrix": a,
        "forgetting": lost / last if last else None,
        "old": [percent(t, seen[t - 1]) if t else None for t in range(last + 1)],
        "new": [a[t][t] for t in range(last + 1)],
    }


@settings(deadline=None, max_examples=80)
@given(runs())
def test_a_summary_is_that_of_the_slow_definitions(
    run: tuple[list[Outcome], tuple[tuple[int, ...], ...]],
) -> None:
    outcomes, tasks = run
    found, expected = metrics.summarize(outcomes, tasks), slow_summary(outcomes, tasks)
    assert json.loads(json.dumps(found)) == found
    assert found.keys() == expected.keys()
    matrix, expected_matrix = found.pop("matrix"), expected.pop("matrix")
    assert len(matrix) == len(outcomes)
    for row, expected_row in zip(matrix, expected_matrix, strict=True):
        assert row == pytest.approx(expected_row)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name


def test_the_confusion_matrix_has_a_row_for_each_true_class() -> None:
    labels, predictions = np.array([0, 0, 0, 2, 2]), np.array([0, 1, 1, 2, 0])
    got = metrics.confusion_matrix(labels, predictions, 3)
    np.testing.assert_array_equal(got, [[1, 2, 0], [0, 0, 0], [1, 0, 1]])
