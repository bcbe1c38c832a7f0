"""Data sets by name, plans of the training order, augmentation, and feeds to the devices."""

import os
import pathlib

from bsce_jax.data import cifar100, cifar100_load, digits, stream
from bsce_jax.data.source import (
    DATASETS,
    ArraySource,
    CroppingSource,
    Dataset,
    Source,
    all_images,
)

__all__ = [
    "DATASETS",
    "ArraySource",
    "CroppingSource",
    "Dataset",
    "Source",
    "all_images",
    "cifar100",
    "cifar100_load",
    "digits",
    "load",
    "stream",
]


def load(name: str, data_dir: str | os.PathLike[str], image_size: int | None = None) -> Dataset:
    """Load a data set by its name.

    Args:
      name: one of `DATASETS`.
      data_dir: the folder of data sets, see `python -m bsce_jax.prepare --help`; for
        `image_folder`, the folder of the images.
      image_size: height and width of the images in pixels. Images in folders need it.
        For other data sets None keeps the original size; see `Dataset.resized` for valid sizes.

    Raises:
      UserError: an unknown name, an invalid size, or missing or damaged data; the message says
        how to get the data.
    """
    dataset = DATASETS[name](pathlib.Path(data_dir), image_size)
    if image_size is None or dataset.image_shape[:2] == (image_size, image_size):
        return dataset
    return dataset.resized(image_size)


@DATASETS.register("image_folder")
def _image_folder(data_dir: pathlib.Path, image_size: int | None) -> Dataset:
    from bsce_jax.data import image_folder  # imports Pillow, which other data sets do not need

    return image_folder.load(data_dir, image_size)


@DATASETS.register("imagenet_subset")
def _imagenet_subset(data_dir: pathlib.Path, image_size: int | None) -> Dataset:
    from bsce_jax.data import image_folder

    return image_folder.load_imagenet_subset(data_dir, image_size)
