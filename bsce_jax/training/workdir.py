"""The folder of a run: whose it is, its log, its predictions and its results."""

import contextlib
import fcntl
import json
import os
import pathlib
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from ml_collections import ConfigDict

from bsce_jax.errors import UserError
from bsce_jax.files import write_atomically, write_json

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter


@contextlib.contextmanager
def claimed(workdir: str | os.PathLike[str], config: ConfigDict) -> Iterator[pathlib.Path]:
    """Holds a folder for the run of a config: a new one, or the one that this run has already.

    Raises:
      UserError: the folder holds the run of another config, cannot be written, or is held by
        another process.
    """
    folder = pathlib.Path(workdir)
    wanted = json.loads(config.to_json())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "ab")  # noqa: SIM115  (closed below)
    except OSError as error:
        raise _cannot_use(folder, error) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is training in {folder}: wait for it, or choose another --workdir"
            ) from None
        except OSError:
            pass  # some network file systems have no locks
        _check_config(folder, wanted)
        yield folder


def _check_config(folder: pathlib.Path, wanted: dict[str, Any]) -> None:
    path = folder / "config.json"
    try:
        if path.exists():
            differences = _differences(json.loads(path.read_text()), wanted)
            if differences:
                raise UserError(
                    f"{folder} holds a run of another config ({'; '.join(differences)}): "
                    "choose another --workdir, or remove that one"
                )
        else:
            write_json(path, wanted)
    except OSError as error:
        raise _cannot_use(folder, error) from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON: remove {folder} or choose another") from error


def _cannot_use(folder: pathlib.Path, error: OSError) -> UserError:
    return UserError(f"cannot use --workdir {folder}: {error.strerror}")


def _differences(there: dict[str, Any], here: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in sorted(there.keys() | here.keys()):
        a, b = there.get(key), here.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key} is {a!r} there and {b!r} here")
    return found


class Log:
    """`metrics.jsonl` and the TensorBoard events: one record for each epoch and each task.

    Args:
      folder: of the run.
      keep_bytes: length of the log to keep; what a stopped run wrote after its last checkpoint is
        cut off, since it is going to be done again.
      step: optimiser steps done so far; TensorBoard events after it are dropped.
    """

    def __init__(self, folder: pathlib.Path, keep_bytes: int, step: int):
        self._file = open(folder / "metrics.jsonl", "a+b")  # noqa: SIM115  (closed on leaving)
        self._file.truncate(min(keep_bytes, self._file.seek(0, os.SEEK_END)))
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
        """Adds a record; its numbers also go to TensorBoard as `kind/name`."""
        record = {"kind": kind, "step": step, **values}
        self._file.write((json.dumps(record, allow_nan=False) + "\n").encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        for name, value in values.items():
            if self._events is not None and isinstance(value, float):
                self._events.add_scalar(f"{kind}/{name}", value, step)


def _events(folder: pathlib.Path, step: int) -> "SummaryWriter | None":
    """Opens the TensorBoard events; None without tensorboardX, which training can do without."""
    try:
        from tensorboardX import SummaryWriter
    except ModuleNotFoundError:
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)


def write_predictions(
    folder: pathlib.Path, task: int, labels: np.ndarray, cnn: np.ndarray, nme: np.ndarray
) -> None:
    """Writes `predictions/task_NN.npz`: labels [n], cnn_top5 and nme_top5 [n, 5]."""
    write_atomically(
        _predictions(folder, task),
        lambda f: np.savez_compressed(f, labels=labels, cnn_top5=cnn, nme_top5=nme),
    )


def read_predictions(folder: pathlib.Path, task: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reads what `write_predictions` wrote.

    Raises:
      UserError: somebody removed the file.
    """
    path = _predictions(folder, task)
    if not path.exists():
        raise UserError(f"{path} is missing: train again, in another --workdir")
    with np.load(path) as saved:
        return saved["labels"], saved["cnn_top5"], saved["nme_top5"]


def _predictions(folder: pathlib.Path, task: int) -> pathlib.Path:
    return folder / "predictions" / f"task_{task:02d}.npz"
