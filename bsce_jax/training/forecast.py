"""How long the rest of a run takes, from the steps that this process has timed."""

import collections
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bsce_jax.methods import Stage
from bsce_jax.training.problem import Problem

RECENT = 9  # chunks whose median counts, so that a checkpoint or a pause does not
BETWEEN = ("prepare", "correct", "remember", "evaluate")  # kinds of work apart from training


class Left(NamedTuple):
    """Seconds left; None where a step that is still to come was not timed yet.

    Attributes:
      task: for the training of the present task.
      run: for all tasks.
    """

    task: float | None
    run: float | None


class Forecast:
    """Estimates the time that is left, from the steps that this process has timed.

    The steps of the first task and those of later tasks have different costs if only the later ones
    have a teacher. So the time of a run is known once a step of a later task was timed. Until a
    later stage of a task was timed, its steps count as those of the task's first stage. Compiling
    is not in the estimate.

    Args:
      problem: of the run.
    """

    def __init__(self, problem: Problem):
        self._plan = [_plan(problem, task) for task in range(problem.scenario.num_tasks)]
        self._times: dict[object, collections.deque[float]] = {}
        self._last: float | None = None

    def start(self) -> None:
        """Start a stage; its first chunk is not timed, since it may be compiled."""
        self._last = None

    def chunk(self, stage: Stage, steps: int) -> None:
        """Time a chunk of steps that has just ended."""
        now = time.perf_counter()
        if self._last is not None:
            times = self._times.setdefault(_kind(stage), collections.deque(maxlen=RECENT))
            times.append((now - self._last) / steps)
        self._last = now

    def left(
        self, task: int, stage: int, steps: int, timing: Sequence[Mapping[str, float]]
    ) -> Left:
        """Estimate the time left.

        Args:
          task: number of the present task.
          stage: number of the present stage.
          steps: left in this stage.
          timing: of each finished task, seconds by kind of work; see `Progress`.
        """
        between = sum(timing[-1].get(kind, 0.0) for kind in BETWEEN) if timing else 0.0
        present, *later = self._plan[task:]
        (kind, _), *following = present[stage:]
        own = self._seconds([(kind, steps), *following], present[0][0])
        if own is None:
            return Left(None, None)
        total = own + between
        for stages in later:
            seconds = self._seconds(stages, stages[0][0] if stages else None)
            if seconds is None:
                return Left(own, None)
            total += seconds + between
        return Left(own, total)

    def _seconds(self, stages: list[tuple[object, int]], first: object) -> float | None:
        """Estimate the time of some stages of a task whose first stage is of a kind."""
        total = 0.0
        for kind, steps in stages:
            times = self._times.get(kind) or self._times.get(first)
            if steps and not times:
                return None
            total += steps * statistics.median(times) if times else 0.0
        return total


def _plan(problem: Problem, task: int) -> list[tuple[object, int]]:
    """List the kind and the steps of each stage of a task."""
    finished = problem.finished_stages(task)
    return [
        (_kind(stage), problem.planned_steps(task, stage) if number >= finished else 0)
        for number, stage in enumerate(problem.stages(task))
    ]


def _kind(stage: Stage) -> object:
    """What the cost of a step depends on, apart from the network."""
    return (
        stage.terms,
        stage.teacher,
        stage.trainable,
        stage.batch_norm,
        stage.replay_batch_size,
    )
