"""The order of training: every record once, padding, replay, balanced batches, hold-out."""

import functools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsce_jax.data.plan import (
    balanced_plan,
    class_counts,
    epoch_plan,
    holdout,
    steps_per_epoch,
)
from bsce_jax.errors import UserError

quick = settings(deadline=None, max_examples=100)
seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize(("count", "steps"), [(0, 0), (1, 1), (127, 1), (128, 1), (129, 2)])
def test_steps_per_epoch(count: int, steps: int) -> None:
    assert steps_per_epoch(count, 128) == steps


@quick
@given(st.lists(st.integers(0, 10**6), unique=True, max_size=60), st.integers(1, 20), seeds)
def test_an_epoch_brings_every_record_once(indices: list[int], batch: int, seed: int) -> None:
    plan = epoch_plan(np.array(indices, np.int64), batch, seed=seed, task=0, epoch=0)
    assert plan.indices.shape == plan.weights.shape == (math.ceil(len(indices) / batch), batch)
    assert [a.dtype for a in plan] == [np.int32, np.float32]
    assert sorted(plan.indices[plan.weights == 1].tolist()) == sorted(indices)
    flat = plan.weights.ravel()
    assert flat[: len(indices)].all()
    assert not flat[len(indices) :].any()
    # What fills up the last batch is real, and as varied as can be.
    if len(indices) >= batch:
        assert all(len(set(row)) == batch for row in plan.indices[:-1].tolist())
    assert set(plan.indices.ravel().tolist()) <= set(indices)


def test_padding_goes_round_the_same_shuffle() -> None:
    plan = epoch_plan(np.arange(5), 4, seed=0, task=0, epoch=0)
    np.testing.assert_array_equal(plan.indices.ravel()[5:], plan.indices.ravel()[:3])
    np.testing.assert_array_equal(plan.weights, [[1, 1, 1, 1], [1, 0, 0, 0]])
    plan = epoch_plan(np.arange(2), 5, seed=0, task=0, epoch=0)
    a, b = plan.indices[0, :2]
    np.testing.assert_array_equal(plan.indices, [[a, b, a, b, a]])


def test_a_plan_depends_on_seed_task_and_epoch_alone() -> None:
    arguments = [(s, t, e) for s in (0, 1) for t in (0, 1) for e in (0, 1)]

    def plans() -> list[list[int]]:
        return [
            epoch_plan(np.arange(50), 8, seed=s, task=t, epoch=e).indices.ravel().tolist()
            for s, t, e in arguments
        ]

    first = plans()
    assert first == plans()
    assert len({tuple(p) for p in first}) == len(arguments)


@quick
@given(st.integers(1, 40), st.integers(1, 15), st.integers(1, 12), st.integers(1, 9), seeds)
def test_replay_fills_its_places_in_rounds(
    new: int, old: int, batch: int, replay_batch: int, seed: int
) -> None:
    past = 1000 + np.arange(old)
    shuffled = functools.partial(epoch_plan, np.arange(new), batch, seed=seed)
    plan = shuffled(task=2, epoch=3, replay=past, replay_batch_size=replay_batch)
    alone = shuffled(task=2, epoch=3)
    np.testing.assert_array_equal(plan.indices[:, :batch], alone.indices)
    np.testing.assert_array_equal(plan.weights[:, :batch], alone.weights)
    assert plan.indices.shape == plan.weights.shape == (len(alone.indices), batch + replay_batch)
    assert [a.dtype for a in plan] == [np.int32, np.float32]
    assert (plan.weights[:, batch:] == 1).all()
    drawn = plan.indices[:, batch:].ravel().tolist()
    for start in range(0, len(drawn), old):  # each round has every exemplar once
        part = drawn[start : start + old]
        assert len(set(part)) == len(part)
        assert set(part) <= set(past.tolist())


def test_replay_rounds_are_shuffled_anew() -> None:
    plan = epoch_plan(
        np.arange(40), 4, seed=0, task=1, epoch=0, replay=np.arange(20), replay_batch_size=4
    )
    first, second = plan.indices[:, 4:].reshape(2, 20).tolist()
    assert first != second
    assert sorted(first) == sorted(second) == list(range(20))


@pytest.mark.parametrize("replay", [None, np.zeros(0, np.int64)])
def test_replay_needs_exemplars(replay: np.ndarray | None) -> None:
    with pytest.raises(ValueError, match="nothing to replay"):
        epoch_plan(np.arange(4), 2, seed=0, task=1, epoch=0, replay=replay, replay_batch_size=2)


@quick
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=8).filter(any),
    st.integers(0, 5),
    st.integers(1, 20),
    seeds,
)
def test_balanced_batches_hold_the_classes_equally(
    sizes: list[int], steps: int, batch: int, seed: int
) -> None:
    exemplars = [[100 * c + i for i in range(size)] for c, size in enumerate(sizes)]
    plan = balanced_plan(exemplars, steps, batch, seed=seed, task=1, epoch=0)
    assert plan.shape == (steps, batch)
    assert plan.dtype == np.int32
    stored = {index for own in exemplars for index in own}
    assert set(plan.ravel().tolist()) <= stored
    present = [c for c, size in enumerate(sizes) if size]
    for row in plan:
        held = [int((row // 100 == c).sum()) for c in present]
        assert max(held) - min(held) <= 1
    for c in present:  # images in rounds: none comes twice before all came once
        drawn = plan.ravel()[plan.ravel() // 100 == c].tolist()
        for start in range(0, len(drawn), sizes[c]):
            part = drawn[start : start + sizes[c]]
            assert len(set(part)) == len(part)


def test_balanced_batches_favour_no_class() -> None:
    plan = balanced_plan([[0], [1], [2]], 3000, 4, seed=0, task=0, epoch=0)
    extra = np.bincount(plan.ravel(), minlength=3) - 3000
    assert extra.sum() == 3000
    assert (abs(extra - 1000) < 130).all()  # 5 standard deviations
    plans = [balanced_plan([[0, 1], [2]], 9, 4, seed=0, task=0, epoch=e) for e in (0, 0, 1)]
    np.testing.assert_array_equal(plans[0], plans[1])
    assert (plans[0] != plans[2]).any()


def test_balanced_batches_need_exemplars() -> None:
    with pytest.raises(ValueError, match="needs exemplars"):
        balanced_plan([[], []], 3, 4, seed=0, task=0, epoch=0)


def test_holdout_by_hand() -> None:
    exemplars = [list(range(20)), list(range(100, 104)), [200], []]
    candidates = [list(range(1000, 1050)), [2000, 2001]]
    train, held = holdout(exemplars, candidates, 0.1, seed=0, task=1)
    # 2 of 20, at least 1 of 4, never the last one; 2 of each new class, which leaves it one.
    held_counts = np.bincount(np.searchsorted([20, 104, 201, 1050, 2002], held, "right"))
    np.testing.assert_array_equal(held_counts, [2, 1, 0, 2, 1])
    assert sorted([*train, *held]) == sorted(i for own in (*exemplars, *candidates) for i in own)
    assert train.dtype == held.dtype == np.int64


def test_holdout_is_random_and_repeatable() -> None:
    arguments = [list(range(100))], [list(range(100, 300))]
    held = [
        holdout(*arguments, 0.1, seed=seed, task=task)[1].tolist()
        for seed, task in [(0, 1), (0, 1), (1, 1), (0, 2)]
    ]
    assert held[0] == held[1]
    assert held[0] != held[2]
    assert held[0] != held[3]
    assert held[0][:10] != list(range(10))


@pytest.mark.parametrize(
    ("exemplars", "fraction"),
    [([], 0.1), ([[1, 2], [3, 4]], 0.0), ([[], []], 0.1)],
)
def test_nothing_is_held_out_without_need(exemplars: list[list[int]], fraction: float) -> None:
    train, held = holdout(exemplars, [[5, 6, 7]], fraction, seed=0, task=0)
    assert len(held) == 0
    assert sorted(train.tolist()) == [*(i for own in exemplars for i in own), 5, 6, 7]


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_a_bad_holdout_is_refused(fraction: float) -> None:
    with pytest.raises(UserError, match="choose at least 0, less than 1"):
        holdout([[1, 2]], [[3]], fraction, seed=0, task=1)


def test_class_counts() -> None:
    labels = np.array([0, 2, -1, 2, 0, 1, 2], np.int32)
    found = class_counts(labels, np.array([0, 1, 3, 5, 6]), 5)
    np.testing.assert_array_equal(found, [1, 1, 3, 0, 0])
    assert found.dtype == np.int64
    np.testing.assert_array_equal(class_counts(labels, np.zeros(0, np.int64), 3), [0, 0, 0])
