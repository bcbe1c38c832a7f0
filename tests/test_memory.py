"""The memory's budget and choice against numbers by hand, slow loops and properties."""

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
