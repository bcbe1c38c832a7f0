"""Where images come from: data sets by name, and their augmentation on the device."""

import os
import pathlib
from collections.abc import Callable

from bsce_jax.data import cifar100, digits
from bsce_jax.data.source import Dataset, Split
from bsce_jax.errors import UserError, unknown

__all__ = ["Dataset", "Split", "load", "names"]

# of one image size
_ARRAYS: dict[str, Callable[[pathlib.Path], Dataset]] = {
    "cifar100": cifar100.load,
    "digits": digits.load,
}
# of images that are decoded at the size asked for
_FOLDERS = ("image_folder", "imagenet_subset")


def names() -> tuple[str, ...]:
    """Returns the name of every data set that `load` knows."""
    return (*_ARRAYS, *_FOLDERS)


def load(name: str, data_dir: str | os.PathLike[str], image_size: int | None = None) -> Dataset:
    """Loads a data set into memory.

    Args:
      name: one of `names()`.
      data_dir: the folder that data sets live in, see `python -m bsce_jax.prepare --help`; for
        `image_folder`, the folder of the images itself.
      image_size: height and width of the images in pixels. Images in folders need it; None
        leaves other data sets as they are, see `Dataset.resized` for what else they can be.

    Raises:
      UserError: no such name, no such size, or the data is missing or damaged; the message says
        how to get it.
    """
    path = pathlib.Path(data_dir)
    if name in _FOLDERS:
        if image_size is None:
            raise UserError(
                f"dataset.image_size is needed for {name}: the height and width, in pixels, "
                "that its images are resized to"
            )
        from bsce_jax.data import image_folder  # it needs Pillow, and arrays do not

        if name == "imagenet_subset":
            return image_folder.load_imagenet_subset(path, image_size)
        return image_folder.load(path, image_size)
    if name not in _ARRAYS:
        raise unknown("data set", name, names())
    dataset = _ARRAYS[name](path)
    return dataset if image_size is None else dataset.resized(image_size)
