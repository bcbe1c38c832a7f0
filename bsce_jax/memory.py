"""What is kept of the past, and the order in which it is trained on.

The past is a list of record indices. Everything here is a pure function of its arguments, seeds
among them, so every host makes the same choices and a resumed run repeats them.
"""

import bisect
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from bsce_jax.errors import UserError, unknown

POLICIES = ("per_class", "total")

Records = Sequence[int] | np.ndarray  # indices of records, [n]

_TIE = 1e-9  # distances this close are equal: rounding must not choose between like images
_EPOCH, _BALANCED = range(2)  # what a shuffle is for


def check_budget(policy: str, size: int, num_classes: int) -> None:
    """Check that a memory can hold a number of classes.

    Args:
      policy: `per_class` or `total`.
      size: exemplars per class or in total; 0: nothing is kept.
      num_classes: that will be seen.

    Raises:
      UserError: no such policy, a negative size, or a total of less than one exemplar a class.
    """
    if policy not in POLICIES:
        raise unknown("memory.policy", policy, POLICIES)
    if size < 0:
        raise UserError(f"memory.size is {size}: choose 0, which keeps nothing, or more")
    if policy == "total" and 0 < size < num_classes:
        raise UserError(
            f"memory.size is {size} in total for {num_classes} classes: choose at least "
            f"{num_classes}, or 0 to keep nothing"
        )


@dataclasses.dataclass(frozen=True)
class Memory:
    """The exemplars of the classes seen so far.

    Attributes:
      policy: `per_class` (a fixed number of each class) or `total` (a fixed number, shared).
      size: exemplars per class or in total; 0: nothing is kept.
      exemplars: record indices of each class in order of arrival, best first; plain ints, so that
        JSON takes them as they are.

    Raises:
      UserError: a budget that `check_budget` refuses.
    """

    policy: str
    size: int
    exemplars: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        check_budget(self.policy, self.size, len(self.exemplars))

    def quota(self, available: Sequence[int]) -> list[int]:
        """Share the budget among classes.

        Args:
          available: images of each class.

        Returns:
          Exemplars of each class. Under `total` they are never more than `size` together and as
          equal as can be: what a small class leaves goes to the others, and earlier classes get
          one more where the budget does not divide. More classes never raise a class's quota.
        """
        if self.policy == "per_class":
            return [min(self.size, count) for count in available]

        def used(level: int) -> int:
            return sum(min(count, level) for count in available)

        levels = range(max(available, default=0) + 1)
        level = bisect.bisect_right(levels, self.size, key=used) - 1
        quotas = [min(count, level) for count in available]
        wanting = [i for i, count in enumerate(available) if count > level]
        for i in wanting[: self.size - used(level)]:
            quotas[i] += 1
        return quotas

    def add(self, ranked: Sequence[Records]) -> "Memory":
        """Make room for new classes and store them.

        Args:
          ranked: record indices of each new class, best first, its quota or more of them.

        Returns:
          The memory with the new classes; of every class the best are kept.
        """
        classes = [*self.exemplars, *ranked]
        quotas = self.quota([len(records) for records in classes])
        best = (tuple(map(int, r[:quota])) for r, quota in zip(classes, quotas, strict=True))
        return dataclasses.replace(self, exemplars=tuple(best))

    @property
    def indices(self) -> np.ndarray:
        """Record indices of all exemplars, class by class, int64 [n]."""
        return _flat(self.exemplars)


def generator(seed: int, *key: int) -> np.random.Generator:
    """Make the random generator of one purpose.

    Keys of different length are different streams, zeros at their end included; that is not so of
    `default_rng([seed, *key])`.

    Args:
      seed: of the run, 0 or more.
      *key: what the numbers are for, each 0 or more.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def select(
    features: np.ndarray, count: int, selection: str, *, rng: np.random.Generator
) -> np.ndarray:
    """Choose the exemplars of a class.

    Args:
      features: of the class's images, float [n, D]; they are compared at unit length.
      count: how many to choose; all, ranked, if there are fewer.
      selection: `herding` (the mean of the first k is near the class mean, for every k), `nearest`
        (those near the class mean) or `random`. Ties go to the earlier image.
      rng: what `random` draws from.

    Returns:
      Positions in `features`, int64 [min(count, n)], best first.

    Raises:
      UserError: no such selection.
      ValueError: a feature that is not finite.

    Source of herding: Rebuffi et al. 2017, "iCaRL", algorithm 4.
    """
    if selection not in SELECTIONS:
        raise unknown("memory.selection", selection, SELECTIONS)
    if not np.isfinite(features).all():
        raise ValueError("exemplars cannot be chosen: features are not finite")
    count = min(count, len(features))
    if not count:
        return np.zeros(0, np.int64)
    unit = np.asarray(features, np.float64)
    lengths = np.linalg.norm(unit, axis=1, keepdims=True)
    return SELECTIONS[selection](unit / np.where(lengths > 0, lengths, 1), count, rng)


def _herding(unit: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    mean = unit.mean(axis=0)
    squares = np.square(unit).sum(axis=1)
    wanted = np.zeros_like(mean)  # k times the class mean, less the sum of those chosen
    chosen = np.zeros(count, np.int64)
    for k in range(count):
        wanted += mean
        distances = squares - unit @ (2 * wanted)  # |wanted - f|^2 but for a constant
        chosen[k] = best = np.argmax(distances <= distances.min() + _TIE)
        wanted -= unit[best]
        squares[best] = np.inf
    return chosen


def _nearest(unit: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    distances = np.linalg.norm(unit - unit.mean(axis=0), axis=1)
    return np.argsort(distances, kind="stable")[:count]


def _random(unit: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    return rng.permutation(len(unit))[:count]


SELECTIONS: dict[str, Callable[[np.ndarray, int, np.random.Generator], np.ndarray]] = {
    "herding": _herding,
    "nearest": _nearest,
    "random": _random,
}


class Plan(NamedTuple):
    """The batches of an epoch.

    Attributes:
      indices: of records, int32 [steps, batch].
      weights: 1 for a sample, 0 for padding, float32 [steps, batch].
    """

    indices: np.ndarray
    weights: np.ndarray


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Count the batches that hold `count` samples, the last one perhaps not full."""
    return -(-count // batch_size)


def epoch_plan(
    indices: Records,
    batch_size: int,
    *,
    seed: int,
    task: int,
    epoch: int,
    replay: Records | None = None,
    replay_batch_size: int = 0,
) -> Plan:
    """Shuffle an epoch into batches.

    Args:
      indices: of the records to train on, [n]; each comes once with weight 1. The last batch is
        filled up with others of them, of weight 0, so that BatchNorm sees nothing but real images.
      batch_size: samples of `indices` in a batch.
      seed: of the run.
      task: number of the task.
      epoch: number of the epoch.
      replay: of the exemplars, [m], gone through in shuffled rounds.
      replay_batch_size: exemplars at the end of every batch (SS-IL), none padding.

    Returns:
      The plan, `ceil(n / batch_size)` batches of `batch_size + replay_batch_size`.

    Raises:
      ValueError: a `replay_batch_size` without `replay`.
    """
    count, steps = len(indices), steps_per_epoch(len(indices), batch_size)
    rng = generator(seed, task, epoch, _EPOCH)
    shuffled = rng.permutation(indices)
    rows = np.resize(shuffled, (steps, batch_size))  # goes round and round
    weights = (np.arange(rows.size) < count).reshape(rows.shape)
    if replay_batch_size:
        if replay is None or not len(replay):
            raise ValueError(f"replay_batch_size is {replay_batch_size} with nothing to replay")
        again = _rounds(replay, steps * replay_batch_size, rng).reshape(steps, replay_batch_size)
        rows = np.hstack([rows, again])
        weights = np.hstack([weights, np.ones_like(again)])
    return Plan(rows.astype(np.int32), weights.astype(np.float32))


def balanced_plan(
    exemplars: Sequence[Records],
    steps: int,
    batch_size: int,
    *,
    seed: int,
    task: int,
    epoch: int,
) -> np.ndarray:
    """Draw class-balanced batches.

    Args:
      exemplars: record indices of each class; a class without any is left out.
      steps: number of batches.
      batch_size: of each.
      seed: of the run.
      task: number of the task.
      epoch: number of the epoch.

    Returns:
      Record indices, int32 [steps, batch_size]: in every batch the classes differ by one sample at
      most, and which have one more is random. The images of a class come in shuffled rounds.

    Raises:
      ValueError: no exemplar at all.
    """
    present = [records for records in exemplars if len(records)]
    if not present:
        raise ValueError("a class-balanced batch needs exemplars")
    rng = generator(seed, task, epoch, _BALANCED)
    orders = rng.permuted(np.tile(np.arange(len(present)), (steps, 1)), axis=1)
    classes = orders[:, np.arange(batch_size) % len(present)]
    plan = np.zeros(classes.shape, np.int32)
    for position, records in enumerate(present):
        places = classes == position
        plan[places] = _rounds(records, int(places.sum()), rng)
    return plan


def holdout(
    exemplars: Sequence[Records],
    candidates: Sequence[Records],
    fraction: float,
    *,
    seed: int,
    task: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Hold out a balanced validation set, as BiC does (Wu et al. 2019).

    Args:
      exemplars: record indices of each old class.
      candidates: record indices of each new class.
      fraction: of each old class's exemplars to hold out, rounded, but at least one exemplar, and
        never a class's last one. Of each new class as many are held out as of an old one.
      seed: of the run.
      task: number of the task.

    Returns:
      Record indices to train on and held out, int64 [n] and [m]; m is 0 where the fraction is, or
      where there are no exemplars.

    Raises:
      UserError: a fraction below 0, or of 1 and more.
    """
    if not 0 <= fraction < 1:
        raise UserError(f"the fraction to hold out is {fraction}: choose at least 0, less than 1")
    share = [max(1, round(fraction * len(r))) if fraction else 0 for r in exemplars]
    held = [_but_one(records, count) for records, count in zip(exemplars, share, strict=True)]
    most = max(held, default=0)
    held += [_but_one(records, most) for records in candidates]
    rng = generator(seed, task)
    shuffled = [rng.permutation(np.asarray(r, np.int64)) for r in (*exemplars, *candidates)]
    train = _flat(r[n:] for r, n in zip(shuffled, held, strict=True))
    return train, _flat(r[:n] for r, n in zip(shuffled, held, strict=True))


def class_counts(labels: np.ndarray, indices: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the records of each class that are trained on.

    Args:
      labels: class position of every record, int [n].
      indices: of the records trained on, [m].
      num_classes: C.

    Returns:
      Counts, int64 [C].
    """
    return np.bincount(labels[indices], minlength=num_classes).astype(np.int64)


def _but_one(records: Records, count: int) -> int:
    """Limit a count such that a record is left."""
    return min(count, max(0, len(records) - 1))


def _flat(parts: Iterable[Records]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int64), *(np.asarray(p, np.int64) for p in parts)])


def _rounds(records: Records, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw [count] records, all of them in a new order again and again."""
    rounds = steps_per_epoch(count, len(records))
    return rng.permuted(np.tile(records, (rounds, 1)), axis=1).ravel()[:count]
