"""`predictions/task_NN.npz`: the test labels and the five best predictions after each task."""

import pathlib

import numpy as np

from bsce_jax.errors import UserError
from bsce_jax.files import MALFORMED, write_atomically


def write(
    folder: pathlib.Path, task: int, labels: np.ndarray, cnn: np.ndarray, nme: np.ndarray
) -> None:
    """Write `predictions/task_NN.npz`: labels [n], cnn_top5 and nme_top5 [n, 5]."""
    write_atomically(
        _path(folder, task),
        lambda f: np.savez_compressed(f, labels=labels, cnn_top5=cnn, nme_top5=nme),
    )


def read(folder: pathlib.Path, task: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read the labels, cnn_top5 and nme_top5 of a task.

    Raises:
      UserError: the file is missing or damaged.
    """
    path = _path(folder, task)
    if not path.exists():
        raise UserError(f"{path} is missing: train again, in another --workdir")
    try:
        with open(path, "rb") as f, np.load(f, allow_pickle=False) as saved:
            labels, cnn, nme = (saved[name] for name in ("labels", "cnn_top5", "nme_top5"))
    except MALFORMED as error:
        raise UserError(f"{path} is damaged: train again, in another --workdir") from error
    whole = labels.ndim == 1 and cnn.shape == nme.shape == (len(labels), 5)
    if not whole or not all(a.dtype.kind in "iu" for a in (labels, cnn, nme)):
        raise UserError(f"{path} is damaged: train again, in another --workdir")
    return labels, cnn, nme


def _path(folder: pathlib.Path, task: int) -> pathlib.Path:
    return folder / "predictions" / f"task_{task:02d}.npz"
