"""Where images come from: data sets by name, and their augmentation on the device."""

import os
import pathlib
from collections.abc import Callable

from bsce_jax.data import cifar100, digits
from bsce_jax.data.source import Dataset, Split
from bsce_jax.errors import unknown

__all__ = ["Dataset", "Split", "load", "names"]

_LOADERS: dict[str, Callable[[pathlib.Path], Dataset]] = {
    "cifar100": cifar100.load,
    "digits": digits.load,
}


def names() -> tuple[str, ...]:
    """Returns the name of every data set that `load` knows."""
    return tuple(_LOADERS)


def load(name: str, data_dir: str | os.PathLike[str]) -> Dataset:
    """Loads a data set into memory.

    Args:
      name: one of `names()`.
      data_dir: the folder that data sets live in; see `python -m bsce_jax.prepare --help`.

    Raises:
      UserError: no such name, or the data is missing or damaged; the message says how to get it.
    """
    if name not in _LOADERS:
        raise unknown("data set", name, names())
    return _LOADERS[name](pathlib.Path(data_dir))
