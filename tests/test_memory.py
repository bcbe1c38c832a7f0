"""The memory's budget, choice and plans against numbers by hand, slow loops and properties."""

import functools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsce_jax import memory
from bsce_jax.errors import UserError
from bsce_jax.memory import Memory

quick = settings(deadline=None, max_examples=100)
counts = st.lists(st.integers(0, 30), max_size=12)
seeds = st.integers(0, 2**32 - 1)

# The budget.


@pytest.mark.parametrize(
    ("policy", "size", "available", "expected"),
    [
        ("per_class", 20, [500, 7, 0], [20, 7, 0]),
        ("per_class", 0, [500, 7], [0, 0]),
        ("total", 10, [5, 5, 5], [4, 3, 3]),  # the earlier class has the one left over
        ("total", 10, [1, 5, 5], [1, 5, 4]),  # what a small class leaves goes to the others
        ("total", 10, [1, 2, 50, 50], [1, 2, 4, 3]),
        ("total", 100, [3, 4], [3, 4]),  # all there is
        ("total", 0, [3, 4], [0, 0]),
        ("total", 2000, [500] * 100, [20] * 100),
        ("total", 2000, [500] * 60, [34] * 20 + [33] * 40),
        ("total", 5, [], []),
    ],
)
def test_quotas_by_hand(policy: str, size: int, available: list[int], expected: list[int]) -> None:
    assert Memory(policy, size).quota(available) == expected


@quick
@given(st.integers(0, 200), counts)
def test_a_total_is_used_up_evenly_and_never_exceeded(size: int, available: list[int]) -> None:
    quotas = Memory("total", size).quota(available)
    assert sum(quotas) == min(size, sum(available))
    assert all(0 <= q <= count for q, count in zip(quotas, available, strict=True))
    limited = [q for q, count in zip(quotas, available, strict=True) if q < count]
    if limited:
        assert max(quotas) - min(limited) <= 1  # nobody has more than one above a class in want
        wanting = [q for q, n in zip(quotas, available, strict=True) if n > min(limited)]
        assert wanting == sorted(wanting, reverse=True)  # and the earlier ones have it


@quick
@given(st.sampled_from(memory.POLICIES), st.integers(0, 200), counts, counts)
def test_more_classes_never_raise_a_quota(
    policy: str, size: int, available: list[int], more: list[int]
) -> None:
    kept = Memory(policy, size)
    before, after = kept.quota(available), kept.quota(available + more)
    assert all(b >= a for b, a in zip(before, after, strict=False))


def test_adding_classes_keeps_the_best_of_each() -> None:
    first = Memory("total", 7).add([[10, 11, 12, 13], [20, 21, 22, 23]])
    assert first.exemplars == ((10, 11, 12, 13), (20, 21, 22))
    second = first.add([np.array([30, 31, 32])])
    assert second.exemplars == ((10, 11, 12), (20, 21), (30, 31))
    assert first.exemplars == ((10, 11, 12, 13), (20, 21, 22))  # what was is unchanged
    np.testing.assert_array_equal(second.indices, [10, 11, 12, 20, 21, 30, 31])
    assert second.indices.dtype == np.int64
    assert Memory("total", 7).indices.dtype == np.int64


def test_exemplars_survive_json() -> None:
    kept = Memory("per_class", 2).add([np.array([5, 3, 1], np.int64), []])
    assert json.loads(json.dumps(kept.exemplars)) == [[5, 3], []]


@quick
@given(st.sampled_from(memory.POLICIES), st.integers(0, 99), st.lists(counts, max_size=3))
def test_ranking_no_more_than_the_quota_is_enough(
    policy: str, size: int, groups: list[list[int]]
) -> None:
    if policy == "total" and size:
        size += sum(map(len, groups))
    full = short = Memory(policy, size)
    available: list[int] = []
    for group in groups:
        names = range(len(available), len(available) + len(group))
        available += group
        ranked = [[100 * c + i for i in range(available[c])] for c in names]
        quotas = full.quota(available)
        full = full.add(ranked)
        short = short.add([r[: quotas[c]] for c, r in zip(names, ranked, strict=True)])
        assert full == short
        assert [len(e) for e in full.exemplars] == quotas
        assert all(
            e == tuple(range(100 * c, 100 * c + len(e))) for c, e in enumerate(full.exemplars)
        )


@pytest.mark.parametrize(
    ("policy", "size", "message"),
    [
        ("per_clas", 20, "unknown memory.policy 'per_clas'; did you mean per_class"),
        ("per_class", -1, "memory.size is -1: choose 0"),
        ("total", 9, "memory.size is 9 in total for 10 classes: choose at least 10, or 0"),
    ],
)
def test_a_bad_budget_is_refused(policy: str, size: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        memory.check_budget(policy, size, 10)
    with pytest.raises(UserError, match=message):
        Memory(policy, size).add([[1]] * 10)


@pytest.mark.parametrize(("policy", "size"), [("per_class", 1), ("total", 10), ("total", 0)])
def test_a_budget_that_fits_is_accepted(policy: str, size: int) -> None:
    memory.check_budget(policy, size, 10)


# The choice.


def slow_herding(features: list[list[float]], count: int) -> list[int]:
    """Algorithm 4 of iCaRL, number by number."""
    unit = []
    for row in features:
        length = math.sqrt(sum(x * x for x in row)) or 1.0
        unit.append([x / length for x in row])
    dims = range(len(unit[0]))
    mean = [sum(row[d] for row in unit) / len(unit) for d in dims]
    chosen: list[int] = []
    for k in range(1, count + 1):
        best, smallest = -1, math.inf
        for i in range(len(unit)):
            if i not in chosen:
                total = [sum(unit[j][d] for j in [*chosen, i]) for d in dims]
                distance = sum((mean[d] - total[d] / k) ** 2 for d in dims)
                if distance < smallest - 1e-12:
                    best, smallest = i, distance
        chosen.append(best)
    return chosen


def choose(features: np.ndarray, count: int, selection: str, seed: int = 0) -> list[int]:
    rng = np.random.default_rng(seed)
    return [int(i) for i in memory.select(features, count, selection, rng=rng)]


@quick
@given(seeds, st.integers(1, 12), st.integers(1, 4), st.booleans())
def test_herding_is_the_slow_algorithm(seed: int, n: int, dims: int, coarse: bool) -> None:
    rng = np.random.default_rng(seed)
    # Coarse features have many ties, equal rows and zero rows.
    drawn = rng.integers(-1, 2, (n, dims)) if coarse else rng.normal(size=(n, dims))
    features = drawn.astype(np.float32)
    assert choose(features, n, "herding") == slow_herding(features.tolist(), n)


def test_herding_by_hand() -> None:
    # Directions of 0, 90 and 45 degrees: the third is the mean's. Then 0 and 90 tie.
    features = np.array([[5.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
    assert choose(features, 3, "herding") == [2, 0, 1]


def test_selections_see_directions_and_not_lengths() -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(40, 8))
    stretched = features * rng.uniform(0.1, 10, size=(40, 1))
    for selection in ("herding", "nearest"):
        assert choose(features, 15, selection) == choose(stretched, 15, selection)


def test_nearest_ranks_by_distance_to_the_mean() -> None:
    rng = np.random.default_rng(2)
    features = rng.normal(size=(30, 5))
    unit = [row / math.sqrt(sum(row**2)) for row in features]
    mean = sum(unit) / 30
    distance = [math.sqrt(sum((row - mean) ** 2)) for row in unit]
    assert choose(features, 30, "nearest") == sorted(range(30), key=lambda i: distance[i])
    # Of equal images the earlier comes first.
    twice = [2 * i + copy for i in choose(features, 30, "nearest") for copy in (0, 1)]
    assert choose(np.repeat(features, 2, axis=0), 60, "nearest") == twice


def test_random_follows_its_generator() -> None:
    features = np.zeros((50, 2))
    first, again, other = (choose(features, 20, "random", seed) for seed in (3, 3, 4))
    assert first == again != other
    assert len(set(first)) == 20


@pytest.mark.parametrize("selection", memory.SELECTIONS)
@pytest.mark.parametrize(("n", "count"), [(0, 5), (1, 5), (6, 4), (6, 6), (6, 9), (6, 0)])
def test_selections_name_images_once(selection: str, n: int, count: int) -> None:
    features = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
    chosen = memory.select(features, count, selection, rng=np.random.default_rng(0))
    assert chosen.dtype == np.int64
    assert len(set(chosen.tolist())) == len(chosen) == min(n, count)
    assert set(chosen.tolist()) <= set(range(n))
    np.testing.assert_array_equal(choose(features, n, selection)[: len(chosen)], chosen)


def test_features_without_direction_are_no_accident() -> None:
    assert choose(np.zeros((4, 3), np.float32), 3, "herding") == [0, 1, 2]
    assert choose(np.zeros((4, 3), np.float32), 3, "nearest") == [0, 1, 2]


def test_a_bad_selection_is_refused() -> None:
    with pytest.raises(UserError, match=r"unknown memory.selection 'herdin'; did you mean herding"):
        choose(np.zeros((4, 3)), 2, "herdin")
    with pytest.raises(ValueError, match="not finite"):
        choose(np.full((4, 3), np.nan), 2, "herding")


# The plans.


def test_keys_of_any_length_are_streams_of_their_own() -> None:
    keys: list[tuple[int, ...]] = [(), (0,), (0, 0), (0, 0, 0), (1,), (1, 0), (0, 1)]
    draws = {tuple(memory.generator(5, *key).integers(2**60, size=4).tolist()) for key in keys}
    assert len(draws) == len(keys)
    assert tuple(memory.generator(5, 1, 0).integers(2**60, size=4).tolist()) in draws
    assert tuple(memory.generator(6, 1, 0).integers(2**60, size=4).tolist()) not in draws


@pytest.mark.parametrize(("count", "steps"), [(0, 0), (1, 1), (127, 1), (128, 1), (129, 2)])
def test_steps_per_epoch(count: int, steps: int) -> None:
    assert memory.steps_per_epoch(count, 128) == steps


@quick
@given(st.lists(st.integers(0, 10**6), unique=True, max_size=60), st.integers(1, 20), seeds)
def test_an_epoch_brings_every_record_once(indices: list[int], batch: int, seed: int) -> None:
    plan = memory.epoch_plan(np.array(indices, np.int64), batch, seed=seed, task=0, epoch=0)
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
    plan = memory.epoch_plan(np.arange(5), 4, seed=0, task=0, epoch=0)
    np.testing.assert_array_equal(plan.indices.ravel()[5:], plan.indices.ravel()[:3])
    np.testing.assert_array_equal(plan.weights, [[1, 1, 1, 1], [1, 0, 0, 0]])
    plan = memory.epoch_plan(np.arange(2), 5, seed=0, task=0, epoch=0)
    a, b = plan.indices[0, :2]
    np.testing.assert_array_equal(plan.indices, [[a, b, a, b, a]])


def test_a_plan_depends_on_seed_task_and_epoch_alone() -> None:
    arguments = [(s, t, e) for s in (0, 1) for t in (0, 1) for e in (0, 1)]

    def plans() -> list[list[int]]:
        return [
            memory.epoch_plan(np.arange(50), 8, seed=s, task=t, epoch=e).indices.ravel().tolist()
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
    epoch_plan = functools.partial(memory.epoch_plan, np.arange(new), batch, seed=seed)
    plan = epoch_plan(task=2, epoch=3, replay=past, replay_batch_size=replay_batch)
    alone = epoch_plan(task=2, epoch=3)
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
    plan = memory.epoch_plan(
        np.arange(40), 4, seed=0, task=1, epoch=0, replay=np.arange(20), replay_batch_size=4
    )
    first, second = plan.indices[:, 4:].reshape(2, 20).tolist()
    assert first != second
    assert sorted(first) == sorted(second) == list(range(20))


@pytest.mark.parametrize("replay", [None, np.zeros(0, np.int64)])
def test_replay_needs_exemplars(replay: np.ndarray | None) -> None:
    with pytest.raises(ValueError, match="nothing to replay"):
        memory.epoch_plan(
            np.arange(4), 2, seed=0, task=1, epoch=0, replay=replay, replay_batch_size=2
        )


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
    plan = memory.balanced_plan(exemplars, steps, batch, seed=seed, task=1, epoch=0)
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
    plan = memory.balanced_plan([[0], [1], [2]], 3000, 4, seed=0, task=0, epoch=0)
    extra = np.bincount(plan.ravel(), minlength=3) - 3000
    assert extra.sum() == 3000
    assert (abs(extra - 1000) < 130).all()  # 5 standard deviations
    plans = [memory.balanced_plan([[0, 1], [2]], 9, 4, seed=0, task=0, epoch=e) for e in (0, 0, 1)]
    np.testing.assert_array_equal(plans[0], plans[1])
    assert (plans[0] != plans[2]).any()


def test_balanced_batches_need_exemplars() -> None:
    with pytest.raises(ValueError, match="needs exemplars"):
        memory.balanced_plan([[], []], 3, 4, seed=0, task=0, epoch=0)


def test_holdout_by_hand() -> None:
    exemplars = [list(range(20)), list(range(100, 104)), [200], []]
    candidates = [list(range(1000, 1050)), [2000, 2001]]
    train, held = memory.holdout(exemplars, candidates, 0.1, seed=0, task=1)
    # 2 of 20, at least 1 of 4, never the last one; 2 of each new class, which leaves it one.
    held_counts = np.bincount(np.searchsorted([20, 104, 201, 1050, 2002], held, "right"))
    np.testing.assert_array_equal(held_counts, [2, 1, 0, 2, 1])
    assert sorted([*train, *held]) == sorted(i for own in (*exemplars, *candidates) for i in own)
    assert train.dtype == held.dtype == np.int64


def test_holdout_is_random_and_repeatable() -> None:
    arguments = [list(range(100))], [list(range(100, 300))]
    held = [
        memory.holdout(*arguments, 0.1, seed=seed, task=task)[1].tolist()
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
    train, held = memory.holdout(exemplars, [[5, 6, 7]], fraction, seed=0, task=0)
    assert len(held) == 0
    assert sorted(train.tolist()) == [*(i for own in exemplars for i in own), 5, 6, 7]


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_a_bad_holdout_is_refused(fraction: float) -> None:
    with pytest.raises(UserError, match="choose at least 0, less than 1"):
        memory.holdout([[1, 2]], [[3]], fraction, seed=0, task=1)


def test_class_counts() -> None:
    labels = np.array([0, 2, -1, 2, 0, 1, 2], np.int32)
    found = memory.class_counts(labels, np.array([0, 1, 3, 5, 6]), 5)
    np.testing.assert_array_equal(found, [1, 1, 3, 0, 0])
    assert found.dtype == np.int64
    np.testing.assert_array_equal(memory.class_counts(labels, np.zeros(0, np.int64), 3), [0, 0, 0])
