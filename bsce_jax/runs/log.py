"""The log of a run: `metrics.jsonl` and the TensorBoard events."""

import hashlib
import json
import os
import pathlib
from types import TracebackType
from typing import TYPE_CHECKING, Any

from bsce_jax.callbacks import Callback

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

# of an epoch's figures in TensorBoard; the others are terms of the loss
TAGS = {"loss": "loss", "accuracy": "accuracy_percent", "scale": "head_scale"}


class Log:
    """`metrics.jsonl` and the TensorBoard events: an entry for each epoch and each task.

    Args:
      folder: of the run.
      keep_bytes: length of the log at the last checkpoint; later entries are removed, since their
        epochs will be trained again.
      step: optimiser steps done so far; TensorBoard events after it are dropped.
      callback: called with each entry once it is on disk. Its errors are raised.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        keep_bytes: int,
        step: int,
        callback: Callback = lambda record: None,
    ):
        self._file = open(folder / "metrics.jsonl", "a+b")  # noqa: SIM115  (closed on leaving)
        self._file.seek(0)
        self._sum = hashlib.sha256(self._file.read(keep_bytes))
        self._file.truncate()
        self._events = _events(folder, step)
        self._callback = callback

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

    @property
    def digest(self) -> str:
        """SHA-256 of the log."""
        return self._sum.hexdigest()

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Add an entry; its figures also go to TensorBoard, and all of it to the callback."""
        entry = {"kind": kind, "step": step, **values}
        line = (json.dumps(entry, allow_nan=False) + "\n").encode()
        self._file.write(line)
        self._sum.update(line)
        self._file.flush()
        os.fsync(self._file.fileno())
        for name, value in values.items():
            if self._events is not None and isinstance(value, float):
                split = values.get("evaluated_on", "test")
                self._events.add_scalar(_tag(kind, name, split), value, step)
        self._callback(entry)


def _tag(kind: str, name: str, split: str) -> str:
    """Name a figure of an entry in TensorBoard, such as "train/loss_term/distillation"."""
    if kind == "task":
        return f"{split}/{name}" + "_accuracy_percent" * (name in ("cnn", "nme"))
    return f"train/{TAGS.get(name, f'loss_term/{name}')}"


def read(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Read the entries of `metrics.jsonl`; lines that are no JSON objects are left out.

    The last line of a run in progress may be incomplete. No entries if the file cannot be read.
    """
    try:
        lines = (folder / "metrics.jsonl").read_bytes().splitlines()
    except OSError:
        return []
    entries = []
    for line in lines:
        try:
            entry = json.loads(line)
        except (RecursionError, ValueError):  # of JSON and of UTF-8
            continue
        if isinstance(entry, dict):
            entries.append(entry)
    return entries


def damage(folder: pathlib.Path, length: int, digest: str) -> str | None:
    """Compare the start of `metrics.jsonl` with what was written.

    Args:
      folder: of the run.
      length: bytes that were written.
      digest: their SHA-256.

    Returns:
      What is wrong, in words; None if nothing is.
    """
    try:
        with open(folder / "metrics.jsonl", "rb") as f:
            content = f.read(length)
    except FileNotFoundError:
        content = b""
    if len(content) < length:
        return f"metrics.jsonl lacks {length - len(content)} bytes that were there"
    if hashlib.sha256(content).hexdigest() != digest:
        return "metrics.jsonl is not as it was written"
    return None


def _events(folder: pathlib.Path, step: int) -> "SummaryWriter | None":
    """Open the TensorBoard events; None if tensorboardX is not installed."""
    try:
        from tensorboardX import SummaryWriter
    except ModuleNotFoundError:
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
