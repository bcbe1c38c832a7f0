"""Checkpoints: everything a run needs to go on, in one orbax checkpoint."""

import dataclasses
import os
from types import TracebackType
from typing import Any

import jax
import orbax.checkpoint as ocp


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a run stands: all of its state that is not an array on a device.

    Attributes:
      task: number of the task in hand.
      stage: 0 in its training, 1 in its balanced fine-tuning.
      step: steps done in this stage.
      total_steps: optimiser steps done in the run.
      exemplars: record indices in memory, class by class in order of arrival, best first.
      history: `exemplars` as it was after each finished task.
      meter: running sums of the epoch in hand, by name.
      timing: what each finished task took, by kind of work: seconds, and optimiser steps.
      clock: the same for the task in hand.
      log_bytes: length of metrics.jsonl; what was written after it is forgotten on resuming.
    """

    task: int = 0
    stage: int = 0
    step: int = 0
    total_steps: int = 0
    exemplars: tuple[tuple[int, ...], ...] = ()
    history: tuple[tuple[tuple[int, ...], ...], ...] = ()
    meter: dict[str, float] = dataclasses.field(default_factory=dict)
    timing: tuple[dict[str, float], ...] = ()
    clock: dict[str, float] = dataclasses.field(default_factory=dict)
    log_bytes: int = 0

    @property
    def between_tasks(self) -> bool:
        """Whether the task in hand has not begun."""
        return self.stage == 0 and self.step == 0


class Checkpoints:
    """The checkpoints of one run, the newest two of them kept.

    A checkpoint appears under its name only when it is complete, so one that was cut short is
    never read. Saving goes on in the background; leaving the context waits for it.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        options = ocp.CheckpointManagerOptions(max_to_keep=2)
        self._manager = ocp.CheckpointManager(os.path.abspath(folder), options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    def save(self, progress: Progress, arrays: Any) -> None:
        """Saves a position and the arrays (any pytree) that belong to it."""
        number = (self._manager.latest_step() or 0) + 1
        self._manager.save(
            number,
            args=ocp.args.Composite(
                arrays=ocp.args.StandardSave(arrays),
                progress=ocp.args.JsonSave(dataclasses.asdict(progress)),
            ),
        )

    def latest(self) -> Progress | None:
        """Returns the newest position, None if nothing was saved yet."""
        number = self._manager.latest_step()
        if number is None:
            return None
        args = ocp.args.Composite(progress=ocp.args.JsonRestore())
        fields = self._manager.restore(number, args=args).progress
        for name in ("exemplars", "history", "timing"):
            fields[name] = _as_tuples(fields[name])
        return Progress(**fields)

    def restore(self, like: Any) -> Any:
        """Returns the newest arrays, with the structure, shapes and shardings of `like`."""
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        args = ocp.args.Composite(arrays=ocp.args.StandardRestore(target))
        return self._manager.restore(self._manager.latest_step(), args=args).arrays


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(v) for v in value) if isinstance(value, list) else value
