"""The scenario: the order of the classes and their split into tasks.

Inside a run a class is numbered by its position in the class order, so the classes seen so far are
always the first ones. The data set's own labels appear only in files.
"""

import collections
import dataclasses
import itertools
import operator
from collections.abc import Sequence

import numpy as np

from bsce_jax.errors import UserError, unknown


@dataclasses.dataclass(frozen=True)
class Scenario:
    """The tasks of a class-incremental run.

    Attributes:
      tasks: the data set's labels, task by task, in order of arrival.
    """

    tasks: tuple[tuple[int, ...], ...]

    @property
    def class_order(self) -> tuple[int, ...]:
        """The data set's label of each class position."""
        return tuple(label for task in self.tasks for label in task)

    @property
    def num_classes(self) -> int:
        """Number of classes of all tasks, C."""
        return sum(map(len, self.tasks))

    @property
    def num_tasks(self) -> int:
        """Number of tasks."""
        return len(self.tasks)

    @property
    def task_of_class(self) -> np.ndarray:
        """Number of the task that brings each class position, int32 [C]."""
        sizes = [len(task) for task in self.tasks]
        return np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)

    def classes_before(self, task: int) -> int:
        """Count the classes seen before a task; its old classes are positions below it."""
        return sum(map(len, self.tasks[:task]))

    def classes_after(self, task: int) -> int:
        """Count the classes seen once a task is learned."""
        return self.classes_before(task + 1)

    def positions(self, labels: np.ndarray) -> np.ndarray:
        """Convert labels to positions in the class order.

        Args:
          labels: the data set's labels, int of any shape.

        Returns:
          Positions, int32 of the same shape, -1 where the class is not in the scenario.
        """
        order = np.asarray(self.class_order)
        by_label = np.argsort(order)
        place = np.searchsorted(order, labels, sorter=by_label)
        candidate = by_label[np.minimum(place, len(order) - 1)]
        return np.where(order[candidate] == labels, candidate, -1).astype(np.int32)


def class_order(spec: int | str | Sequence[int], num_classes: int) -> tuple[int, ...]:
    """Make a class order.

    Args:
      spec: the seed of a shuffle, as an int or as a string of one integer; "sorted"; or an explicit
        order, as ints or as a string like "3,1,2". Classes that the order
        leaves out are not in the scenario.
      num_classes: of the data set, whose labels are 0 to `num_classes - 1`.

    Returns:
      Labels in order of arrival.

    Raises:
      UserError: not a class order of this data set.

    The shuffle is that of numpy's legacy generator, as in the code of LUCIR (Hou et al. 2019): with
    seed 1993, 100 classes start 68, 56, 78, 8, 23.
    """
    if isinstance(spec, str):
        if spec.strip() == "sorted":
            return tuple(range(num_classes))
        spec = _parse(spec)
    if isinstance(spec, int):
        return _shuffled(spec, num_classes)
    order = tuple(map(operator.index, spec))
    if len(order) < 2:
        raise UserError(f"scenario.class_order lists {len(order)} classes: list at least 2")
    outside = [label for label in order if not 0 <= label < num_classes]
    if outside:
        raise UserError(
            f"scenario.class_order lists class {outside[0]}: the classes are 0 to {num_classes - 1}"
        )
    label, times = collections.Counter(order).most_common(1)[0]
    if times > 1:
        raise UserError(f"scenario.class_order lists class {label} {times} times: once is right")
    return order


def is_shuffle(spec: str) -> bool:
    """Tell whether the text of a class order is the seed of a shuffle; see `class_order`.

    Raises:
      UserError: it is no class order.
    """
    return spec.strip() != "sorted" and isinstance(_parse(spec), int)


def make_scenario(order: Sequence[int], base: int, increment: int) -> Scenario:
    """Split a class order into tasks.

    Args:
      order: the data set's labels in order of arrival.
      base: classes of the first task; 0: as many as of every further task.
      increment: classes of every further task. A remainder makes a smaller last task.

    Returns:
      The scenario. With a base of all classes it has a single task.

    Raises:
      UserError: too few classes for the tasks, or an increment below 1.
    """
    count = len(order)
    if increment < 1:
        raise UserError(f"scenario.increment is {increment}: a task brings at least 1 class")
    if not 0 <= base <= count:
        raise UserError(f"scenario.base is {base}: choose 0 to {count}, the number of classes")
    rest = count - base
    if rest and increment > rest:
        raise UserError(
            f"scenario.increment is {increment}: choose 1 to {rest}, the classes that "
            f"scenario.base={base} leaves of {count}"
        )
    cuts = [0, *range(base or increment, count, increment), count]
    tasks = tuple(tuple(order[start:stop]) for start, stop in itertools.pairwise(cuts))
    return Scenario(tasks)


def explicit_tasks(text: str, class_names: Sequence[str]) -> Scenario:
    """Read tasks that are listed class by class.

    Args:
      text: the classes of each task, joined by commas, and the tasks joined by "|", as in
        "cat,dog|horse". A class is its name or, if no class has that name, its label.
      class_names: of the data set, one for each label. Classes that are not listed are not in the
        scenario.

    Returns:
      The scenario.

    Raises:
      UserError: an empty task, an unknown class, or a class that is listed twice.

    >>> explicit_tasks("cat,dog|2", ["cat", "dog", "horse"]).tasks
    ((0, 1), (2,))
    """
    labels = {str(label): label for label in range(len(class_names))}
    labels |= {name: label for label, name in enumerate(class_names)}
    tasks: list[tuple[int, ...]] = []
    for part in text.split("|"):
        names = [name.strip() for name in part.split(",")]
        if "" in names:
            raise UserError(
                f"scenario.tasks is {text!r}: give classes as in 'cat,dog|horse', none empty"
            )
        for name in names:
            if name not in labels:
                raise unknown("class in scenario.tasks", name, class_names)
        tasks.append(tuple(labels[name] for name in names))
    label, times = collections.Counter(itertools.chain(*tasks)).most_common(1)[0]
    if times > 1:
        raise UserError(f"scenario.tasks lists class {class_names[label]} {times} times")
    return Scenario(tuple(tasks))


def _parse(text: str) -> int | list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(
            f"scenario.class_order is {text!r}: give a seed, 'sorted' or labels like '3,1,2'"
        ) from None
    return numbers if len(numbers) > 1 else numbers[0]  # an order of one class makes no sense


def _shuffled(seed: int, num_classes: int) -> tuple[int, ...]:
    if not 0 <= seed < 2**32:
        raise UserError(f"scenario.class_order is {seed}: choose a seed of 0 to {2**32 - 1}")
    order = np.arange(num_classes)
    np.random.RandomState(seed).shuffle(order)
    return tuple(order.tolist())
