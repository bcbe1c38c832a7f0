"""CIFAR-100 as a tfds data set that is prepared and read without TensorFlow."""

import contextlib
import io
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from bsce_jax.data import cifar100
from bsce_jax.data.source import ArraySource, Dataset, Source, all_images
from bsce_jax.errors import UserError, is_no_space, no_space
from bsce_jax.files import temporary_files_removed

try:
    import tensorflow_datasets as tfds
except ModuleNotFoundError as error:
    raise UserError(
        f"prepared data needs tensorflow-datasets and importlib_resources ({error}): install "
        f"them, or put the unpacked {cifar100.FOLDER} folder into the data folder"
    ) from error


class Cifar100Python(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]  # tfds has no types
    """The tfds builder of the official files, with the records in the same order.

    Args:
      source: the official archive or the unpacked folder.
      **kwargs: see tfds; the file format must be `array_record`, since others need TensorFlow.
    """

    VERSION = tfds.core.Version(cifar100.PREPARED.name)

    def __init__(self, *, source: str | os.PathLike[str], **kwargs: Any):
        self._source = pathlib.Path(source)
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        # stored as bytes: writing the default, a list of int64, takes six times as long
        image = tfds.features.Tensor(shape=(32, 32, 3), dtype=np.uint8, encoding="bytes")
        label = tfds.features.ClassLabel(num_classes=100)
        return tfds.core.DatasetInfo(
            builder=self,
            description="60000 images of 32x32 pixels in 100 classes, 600 of each.",
            homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
            citation="A. Krizhevsky: Learning Multiple Layers of Features from Tiny Images. 2009.",
            features=tfds.features.FeaturesDict({"image": image, "label": label}),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: object) -> dict[str, Iterator[tuple[int, Any]]]:
        dataset = cifar100.read_official(self._source)
        self.info.features["label"].names = dataset.class_names
        return {
            "train": self._generate_examples(dataset.train),
            "test": self._generate_examples(dataset.test),
        }

    def _generate_examples(self, split: Source) -> Iterator[tuple[int, Any]]:
        for i, (image, label) in enumerate(zip(all_images(split), split.labels, strict=True)):
            yield i, {"image": image, "label": int(label)}


def prepare(source: pathlib.Path, data_dir: pathlib.Path) -> None:
    """Prepare CIFAR-100 in a data folder; after an error nothing is left in it.

    Args:
      source: the official archive or the unpacked folder.
      data_dir: the data folder.

    Raises:
      UserError: the source is not the official one, or the data folder cannot be written.
    """
    tfds.disable_progress_bar()  # preparing takes only seconds
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="incomplete-", dir=data_dir) as folder:
            staging = pathlib.Path(folder)
            with temporary_files_removed():  # tfds leaves an empty folder
                builder = Cifar100Python(
                    source=source, data_dir=staging, file_format="array_record"
                )
            with contextlib.redirect_stdout(io.StringIO()):  # tfds reports downloads
                builder.download_and_prepare(download_config=config)
            name = cifar100.PREPARED.parent
            os.replace(staging / name, data_dir / name)
    except (OSError, RuntimeError) as error:  # array_record's errors are RuntimeErrors
        if is_no_space(error):
            raise no_space(data_dir) from error
        raise UserError(f"cannot write to {data_dir}: {error}") from error


def read(data_dir: pathlib.Path) -> Dataset:
    """Read the prepared data set, which takes about 5 s.

    Args:
      data_dir: the data folder.

    Raises:
      UserError: the data set is damaged.
    """
    folder = data_dir / cifar100.PREPARED
    try:
        builder = tfds.builder_from_directory(folder)
        train, test = (_read_split(builder, name) for name in ("train", "test"))
    except (OSError, RuntimeError, ValueError) as error:  # array_record's are RuntimeErrors
        raise UserError(
            f"the data set in {folder} is damaged: {error}; delete it and prepare it again"
        ) from error
    return Dataset(
        name="cifar100",
        train=train,
        test=test,
        class_names=tuple(builder.info.features["label"].names),
        mean=cifar100.MEAN,
        std=cifar100.STD,
    )


def _read_split(builder: tfds.core.DatasetBuilder, name: str) -> ArraySource:
    source = builder.as_data_source(name)
    records = source.__getitems__(range(len(source)))
    images = np.stack([record["image"] for record in records])
    return ArraySource(images, np.array([record["label"] for record in records], np.int32))
