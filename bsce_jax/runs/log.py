"""The log of a run: `metrics.jsonl` and the TensorBoard events."""

import json
import os
import pathlib
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter


class Log:
    """`metrics.jsonl` and the TensorBoard events: an entry for each epoch and each task.

    Args:
      folder: of the run.
      keep_bytes: length of the log at the last checkpoint; later entries are removed, since their
        epochs will be trained again.
      step: optimiser steps done so far; TensorBoard events after it are dropped.

    Attributes:
      missing: bytes of the log that are to be kept and are not there.
    """

    def __init__(self, folder: pathlib.Path, keep_bytes: int, step: int):
        self._file = open(folder / "metrics.jsonl", "a+b")  # noqa: SIM115  (closed on leaving)
        length = self._file.seek(0, os.SEEK_END)
        self.missing = max(0, keep_bytes - length)
        self._file.truncate(min(keep_bytes, length))
        self._file.seek(0, os.SEEK_END)
        self._events = _events(folder, step)

    def __enter__(self) -> "Log":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if self._events is not None:
            self._events.close()

    @property
    def bytes(self) -> int:
        """Length of the log, all of it on disk."""
        return self._file.tell()

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Add an entry; its numbers also go to TensorBoard as `kind/name`."""
        entry = {"kind": kind, "step": step, **values}
        self._file.write((json.dumps(entry, allow_nan=False) + "\n").encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        for name, value in values.items():
            if self._events is not None and isinstance(value, float):
                self._events.add_scalar(f"{kind}/{name}", value, step)


def _events(folder: pathlib.Path, step: int) -> "SummaryWriter | None":
    """Open the TensorBoard events; None if tensorboardX is not installed."""
    try:
        from tensorboardX import SummaryWriter
    except ModuleNotFoundError:
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
