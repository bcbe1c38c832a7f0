"""The exemplar memory: its budget and the selection of exemplars.

The memory is a list of record indices for each class. Everything here is a pure function of its
arguments, so every host makes the same choices and a resumed run repeats them.
"""

import bisect
import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from bsce_jax.errors import UserError, unknown
from bsce_jax.registry import Registry

POLICIES = ("per_class", "total")

Records = Sequence[int] | np.ndarray  # indices of records, [n]
# (features of unit length, float64 [n, D]; count; generator) -> positions, best first
Selection = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
SELECTIONS: Registry[Selection] = Registry("memory.selection")

_TIE = 1e-9  # distances this close are equal: rounding must not decide between equal images


def check_budget(policy: str, size: int, num_classes: int) -> None:
    """Check that a memory can hold a number of classes.

    Args:
      policy: `per_class` or `total`.
      size: exemplars per class or in total; 0: nothing is kept.
      num_classes: of the whole scenario.

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
      policy: `per_class` (a fixed number of each class) or `total` (a fixed number in all).
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
          Exemplars of each class. Under `total` the sum is at most `size` and the quotas are as
          equal as possible: what a small class leaves is shared by the others, and a remainder
          goes to the earliest classes. A quota never grows when classes are added.
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
        """Add new classes, and reduce all classes to their quotas.

        Args:
          ranked: record indices of each new class, best first, at least its quota.

        Returns:
          The memory with the new classes; each class keeps its best records.
        """
        classes = [*self.exemplars, *ranked]
        quotas = self.quota([len(records) for records in classes])
        best = (tuple(map(int, r[:quota])) for r, quota in zip(classes, quotas, strict=True))
        return dataclasses.replace(self, exemplars=tuple(best))

    @property
    def indices(self) -> np.ndarray:
        """Record indices of all exemplars, class by class, int64 [n]."""
        return np.array([record for own in self.exemplars for record in own], np.int64)


def select(
    features: np.ndarray, count: int, selection: str, *, rng: np.random.Generator
) -> np.ndarray:
    """Choose the exemplars of a class.

    Args:
      features: of the class's images, float [n, D]; they are normalised here.
      count: how many to choose; if there are fewer images, all are ranked.
      selection: one of `SELECTIONS`: `herding` (for every k, the mean of the first k is near the
        class mean), `nearest` (the images nearest to the class mean) or `random`. Of equal images
        the first is chosen.
      rng: for `random`.

    Returns:
      Positions in `features`, int64 [min(count, n)], best first.

    Raises:
      UserError: no such selection.
      ValueError: a feature that is not finite.

    Source of herding: Rebuffi et al. 2017, "iCaRL", algorithm 4.
    """
    choose = SELECTIONS[selection]
    if not np.isfinite(features).all():
        raise ValueError("exemplars cannot be chosen: features are not finite")
    count = min(count, len(features))
    if not count:
        return np.zeros(0, np.int64)
    unit = np.asarray(features, np.float64)
    lengths = np.linalg.norm(unit, axis=1, keepdims=True)
    return choose(unit / np.where(lengths > 0, lengths, 1), count, rng)


@SELECTIONS.register("herding")
def _herding(unit: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    mean = unit.mean(axis=0)
    squares = np.square(unit).sum(axis=1)
    wanted = np.zeros_like(mean)  # k times the class mean minus the sum of the chosen features
    chosen = np.zeros(count, np.int64)
    for k in range(count):
        wanted += mean
        distances = squares - unit @ (2 * wanted)  # |wanted - f|^2 minus a constant
        chosen[k] = best = np.argmax(distances <= distances.min() + _TIE)
        wanted -= unit[best]
        squares[best] = np.inf
    return chosen


@SELECTIONS.register("nearest")
def _nearest(unit: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    distances = np.linalg.norm(unit - unit.mean(axis=0), axis=1)
    return np.argsort(distances, kind="stable")[:count]


@SELECTIONS.register("random")
def _random(unit: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    return rng.permutation(len(unit))[:count]
