"""Data sets by name, plans of the training order, augmentation, and feeds to the devices."""

import os
import pathlib
import re
from collections.abc import Iterator

from bsce_jax.data import cifar100, cifar100_load, digits
from bsce_jax.data.source import (
    DATASETS,
    ArraySource,
    CroppingSource,
    Dataset,
    FittedSource,
    Source,
    all_images,
)
from bsce_jax.errors import UserError, unknown

__all__ = [
    "DATASETS",
    "NAMES",
    "ArraySource",
    "CroppingSource",
    "Dataset",
    "FittedSource",
    "Source",
    "all_images",
    "cifar100",
    "cifar100_load",
    "digits",
    "load",
]


TFDS = "tfds:"
_TFDS_NAME = re.compile(TFDS + r"[A-Za-z]\w*(/[\w+-][\w.+-]*)?(:\d+\.\d+\.\d+)?")


class _Names:
    """What `dataset.name` may be: a registered name, or that of a prepared tfds set."""

    def __contains__(self, name: str) -> bool:
        return name in DATASETS or _TFDS_NAME.fullmatch(name) is not None

    def __iter__(self) -> Iterator[str]:
        yield from DATASETS
        yield f"{TFDS}NAME[:VERSION]"


NAMES = _Names()


def load(
    name: str,
    data_dir: str | os.PathLike[str],
    image_size: int | None = None,
    train_split: str = "",
    test_split: str = "",
) -> Dataset:
    """Load a data set by its name.

    Args:
      name: one of `DATASETS`, or `tfds:NAME[:VERSION]` for a prepared tfds set, where NAME may be
        `NAME/CONFIG`.
      data_dir: the folder of data sets, see `python -m bsce_jax.prepare --help`; for
        `image_folder`, the folder of the images.
      image_size: height and width of the images in pixels. Images of different sizes need it.
        For other data sets None keeps the original size; see `Dataset.resized` for valid sizes.
      train_split: of a tfds set, such as `train[:80%]`; "" for the usual one.
      test_split: likewise.

    Raises:
      UserError: an unknown name, an invalid size, a remote folder, or missing or damaged data; the
        message says how to get the data.
    """
    folder = pathlib.Path(data_dir)
    if "://" in os.fspath(data_dir):
        raise UserError(
            f"dataset.data_dir={data_dir} is remote: copy it to a local disk of each host, for "
            "example with gcloud storage cp --recursive"
        )
    if name not in NAMES:
        raise unknown("data set", name, NAMES)
    if name.startswith(TFDS):
        from bsce_jax.data import prepared  # imports tfds, which is slow

        tfds_name = name.removeprefix(TFDS)
        dataset = prepared.load(tfds_name, folder, image_size, train_split, test_split)
    elif train_split or test_split:
        raise UserError(
            f"dataset.train_split and dataset.test_split are for {TFDS}NAME sets: {name} has its "
            "own split"
        )
    else:
        dataset = DATASETS[name](folder, image_size)
    if image_size is None or dataset.image_shape[:2] == (image_size, image_size):
        return dataset
    return dataset.resized(image_size)


@DATASETS.register("image_folder")
def _image_folder(data_dir: pathlib.Path, image_size: int | None) -> Dataset:
    from bsce_jax.data import image_folder  # imports Pillow, which other data sets do not need

    return image_folder.load(data_dir, image_size)


@DATASETS.register("imagenet")
def _imagenet(data_dir: pathlib.Path, image_size: int | None) -> Dataset:
    from bsce_jax.data import imagenet

    return imagenet.load("imagenet", data_dir, image_size)


@DATASETS.register("imagenet_subset")
def _imagenet_subset(data_dir: pathlib.Path, image_size: int | None) -> Dataset:
    from bsce_jax.data import imagenet

    return imagenet.load("imagenet_subset", data_dir, image_size)
