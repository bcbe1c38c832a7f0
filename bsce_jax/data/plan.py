"""Plans: the order in which records are trained on, and which are held out.

Everything here is a pure function of its arguments, which include the seed. So every host makes
the same plans and a resumed run repeats them.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from bsce_jax.errors import UserError
from bsce_jax.memory import Records
from bsce_jax.streams import Purpose, generator


class Plan(NamedTuple):
    """The batches of an epoch.

    Attributes:
      indices: of records, int32 [steps, batch].
      weights: 1 for a sample, 0 for padding, float32 [steps, batch].
    """

    indices: np.ndarray
    weights: np.ndarray


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Count the batches of `count` samples; the last one may be partly filled."""
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
    """Shuffle the records of an epoch into batches.

    Args:
      indices: of the records to train on, [n]; each occurs once with weight 1. The last batch is
        padded with other records of weight 0, so that BatchNorm gets only real images.
      batch_size: samples of `indices` in a batch.
      seed: of the run.
      task: number of the task.
      epoch: number of the epoch.
      replay: indices of the exemplars, [m], drawn in shuffled rounds.
      replay_batch_size: exemplars at the end of every batch (SS-IL), none of them padding.

    Returns:
      The plan, `ceil(n / batch_size)` batches of `batch_size + replay_batch_size`.

    Raises:
      ValueError: a `replay_batch_size` without `replay`.
    """
    count, steps = len(indices), steps_per_epoch(len(indices), batch_size)
    rng = generator(seed, Purpose.EPOCH, task, epoch)
    shuffled = rng.permutation(indices)
    rows = np.resize(shuffled, (steps, batch_size))  # repeats the records as padding
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
      exemplars: record indices of each class; a class without records is left out.
      steps: number of batches.
      batch_size: of each.
      seed: of the run.
      task: number of the task.
      epoch: number of the epoch.

    Returns:
      Record indices, int32 [steps, batch_size]. In every batch the counts of the classes differ by
      at most one, and the classes with one more are random. The records of a class are drawn in
      shuffled rounds.

    Raises:
      ValueError: no exemplar at all.
    """
    present = [records for records in exemplars if len(records)]
    if not present:
        raise ValueError("a class-balanced batch needs exemplars")
    rng = generator(seed, Purpose.BALANCED, task, epoch)
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
      fraction: of the exemplars of each old class to hold out, rounded, at least one. Of each new
        class as many records are held out as the most of an old class. One record of each class
        is always left.
      seed: of the run.
      task: number of the task.

    Returns:
      Record indices to train on, int64 [n], and held out, int64 [m]; m is 0 if the fraction is 0
      or there are no exemplars.

    Raises:
      UserError: a fraction outside [0, 1).
    """
    if not 0 <= fraction < 1:
        raise UserError(f"the fraction to hold out is {fraction}: choose at least 0, less than 1")
    if not fraction:
        return _flat([*exemplars, *candidates]), _flat([])
    share = [max(1, round(fraction * len(r))) for r in exemplars]
    held = [_but_one(records, count) for records, count in zip(exemplars, share, strict=True)]
    most = max(held, default=0)
    held += [_but_one(records, most) for records in candidates]
    rng = generator(seed, Purpose.HOLDOUT, task)
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
    """Limit a count so that at least one record is left."""
    return min(count, max(0, len(records) - 1))


def _flat(parts: Iterable[Records]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int64), *(np.asarray(p, np.int64) for p in parts)])


def _rounds(records: Records, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw [count] records in rounds; each round has all of them in a new order."""
    rounds = steps_per_epoch(count, len(records))
    return rng.permuted(np.tile(records, (rounds, 1)), axis=1).ravel()[:count]
