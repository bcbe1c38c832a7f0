"""Prepared tfds data sets as sources, read without TensorFlow: `tfds:NAME[:VERSION]`.

    DATA_DIR/NAME/VERSION/    or DATA_DIR/NAME/CONFIG/VERSION/, in the file format array_record

A set has one feature `ClassLabel`, and one of images: encoded ones, which are decoded as those in
folders are, or a uint8 `Tensor` of fixed shape. The labels of a split are read once and written
beside the records, so that the next start reads no images.
"""

import pathlib
import re
import shlex
from collections.abc import Sequence
from typing import Any

import tensorflow_datasets as tfds
from google.protobuf import json_format

from bsce_jax.data.decode import central_crop, whole_square
from bsce_jax.data.image_folder import MEAN, STD
from bsce_jax.data.source import Dataset
from bsce_jax.data.tfds_source import TfdsSource, find_features, first_line
from bsce_jax.errors import UserError
from bsce_jax.files import temporary_files_removed

# of the training images and of the test images; the first that a set has is taken
TRAIN_SPLITS = ("train",)
TEST_SPLITS = ("validation", "test")
# mean and standard deviation of ImageNet's grey values
GREY_MEAN = (0.449,)
GREY_STD = (0.226,)

_VERSION = re.compile(r"\d+\.\d+\.\d+")


def load(
    name: str,
    data_dir: pathlib.Path,
    image_size: int | None,
    train_split: str = "",
    test_split: str = "",
) -> Dataset:
    """Open a data set by `NAME[:VERSION]`, where NAME may be `NAME/CONFIG`; see `read`.

    Args:
      name: without `tfds:`; without a version the newest one is taken.
      data_dir: the folder of data sets.
      image_size, train_split, test_split: see `read`.

    Raises:
      UserError: no such set is prepared, or for a reason of `read`.
    """
    name, _, version = name.partition(":")
    there = versions(data_dir / name)
    if version and version not in there and there:
        raise UserError(
            f"no version {version} of {name} in {data_dir}: there is {', '.join(there)}"
        )
    if not there:
        place = shlex.quote(str(data_dir))
        command = f"`python -m bsce_jax.prepare tfds:{name} --data_dir {place}`"
        configs = [p.name for p in sorted((data_dir / name).glob("*/")) if versions(p)]
        hint = f"say tfds:{name}/{configs[0]}" if configs else f"prepare it with {command}"
        raise UserError(f"no prepared {name} in {data_dir}: {hint}")
    return read(data_dir / name / (version or there[-1]), image_size, train_split, test_split)


def versions(folder: pathlib.Path) -> list[str]:
    """List the prepared versions in the folder of a data set, the newest last."""
    found = [file.parent.name for file in folder.glob("*/dataset_info.json")]
    numbers = lambda name: tuple(map(int, name.split(".")))
    return sorted(filter(_VERSION.fullmatch, found), key=numbers)


def read(
    folder: pathlib.Path, image_size: int | None, train_split: str = "", test_split: str = ""
) -> Dataset:
    """Open a prepared data set.

    Args:
      folder: of a version, DATA_DIR/NAME/VERSION.
      image_size: height and width that encoded images are resized to. None: images of fixed shape
        are as they are stored.
      train_split: of the training images, as tfds writes it, such as `train[:80%]`; the default is
        the first of `TRAIN_SPLITS` that the set has.
      test_split: likewise; the default is the first of `TEST_SPLITS`.

    Returns:
      The data set. `mean` and `std` are those of ImageNet.

    Raises:
      UserError: another file format than array_record; not one feature of labels and one of
        images; no such split; splits that share records; damaged data.
    """
    builder = open_builder(folder)
    label, image = find_features(folder, builder)
    names = tuple(builder.info.features[label].names)
    train_split = train_split or _first(folder, builder, TRAIN_SPLITS, "train_split")
    test_split = test_split or _first(folder, builder, TEST_SPLITS, "test_split")
    train, test = (
        TfdsSource(folder, builder, split, field, label, image, image_size, fit)
        for split, field, fit in (
            (train_split, "train_split", whole_square),
            (test_split, "test_split", central_crop),
        )
    )
    if _overlap(train.instructions, test.instructions):
        raise UserError(
            f"dataset.train_split {train_split} and dataset.test_split {test_split} of {folder} "
            "share images: choose splits that do not"
        )
    grey = train.image_shape[2] == 1
    return Dataset(
        name=builder.info.name,
        train=train,
        test=test,
        class_names=names,
        mean=GREY_MEAN if grey else MEAN,
        std=GREY_STD if grey else STD,
    )


def open_builder(folder: pathlib.Path) -> Any:
    """Open the tfds builder of a prepared set in the file format array_record.

    Raises:
      UserError: the set is damaged, or in another format.
    """
    try:
        builder = tfds.builder_from_directory(folder)
    except (LookupError, OSError, TypeError, ValueError, json_format.Error) as error:
        raise UserError(
            f"the data set in {folder} is damaged: {first_line(error)}; delete it and prepare it "
            "again"
        ) from error
    file_format = builder.info.file_format
    if file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        raise UserError(
            f"{folder} is stored as {file_format.value}, which only TensorFlow reads: prepare it "
            "as array_record with "
            f"`python -m bsce_jax.prepare tfds:{builder.info.name} --data_dir OTHER`"
        )
    return builder


def make(name: str, manual: pathlib.Path | None, data_dir: pathlib.Path) -> pathlib.Path:
    """Prepare a set of tensorflow-datasets as array_record, which needs TensorFlow.

    Args:
      name: `NAME[:VERSION]`.
      manual: the folder of its manual downloads, if it needs any.
      data_dir: the data folder.

    Returns:
      The folder of the prepared set; one that is there already is not touched.

    Raises:
      UserError: tfds has no such set, or cannot prepare it.
    """
    from tensorflow_datasets.core.download import download_manager, util

    failures = (
        *(AssertionError, LookupError, OSError, RuntimeError, TypeError, ValueError),
        *(download_manager.NonMatchingChecksumError, util.DownloadError),
    )
    config = tfds.download.DownloadConfig(manual_dir=manual, try_download_gcs=False)
    try:
        with temporary_files_removed():  # tfds leaves an empty folder
            builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
        builder.download_and_prepare(download_config=config)
    except failures as error:
        raise UserError(f"tfds cannot prepare {name}: {first_line(error)}") from error
    open_builder(pathlib.Path(builder.data_dir))
    return pathlib.Path(builder.data_dir)


def _first(folder: pathlib.Path, builder: Any, names: Sequence[str], field: str) -> str:
    there = list(builder.info.splits)
    found = next((name for name in names if name in there), None)
    if found is None:
        raise UserError(
            f"{folder} has no split {' or '.join(names)}: set dataset.{field}, there is "
            f"{', '.join(there)}"
        )
    return found


def _overlap(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Tell whether two lists of parts of files share records."""
    parts: dict[str, list[tuple[int, int]]] = {}
    for part in one:
        parts.setdefault(part.filename, []).append((part.skip, part.skip + part.take))
    return any(
        max(start, part.skip) < min(end, part.skip + part.take)
        for part in other
        for start, end in parts.get(part.filename, ())
    )
