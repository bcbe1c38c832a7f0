"""Data sets and their sources: labels in memory, and images by record.

A record is the position of an image in its split. All other modules refer to images by record.
"""

import dataclasses
import functools
import hashlib
import json
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from bsce_jax.data import arrays
from bsce_jax.errors import UserError
from bsce_jax.registry import Registry

ImageShape = tuple[int, int, int]  # height, width, channels


class Source(Protocol):
    """One split of a data set: its labels in memory, and its images, read by record."""

    @property
    def labels(self) -> np.ndarray:
        """The data set's own class number of every record, from 0, int32 [n]."""

    @property
    def image_shape(self) -> ImageShape:
        """Height, width and channels of every image."""

    @property
    def identity(self) -> str:
        """A short hexadecimal digest, different for different splits."""

    def images(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Read the images of some records.

        Args:
          indices: of the records, [k].

        Returns:
          uint8 [k, height, width, channels].
        """


@runtime_checkable
class KeyedSource(Source, Protocol):
    """A source whose records have keys that stay the same when other records are added."""

    @property
    def keys(self) -> Sequence[str]:
        """The key of every record, such as its file and its size; all are different."""

    def subset(self, indices: Sequence[int]) -> Source:
        """Make the source of some of the records, in this order."""


@runtime_checkable
class CroppingSource(Source, Protocol):
    """A source whose images can be cropped as they are stored, before they are resized."""

    def crops(self, indices: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Cut a random-resized crop out of each image.

        Args:
          indices: of the records, [k].
          seeds: of the crops, uint64 [k]; see `decode.random_resized_crop`.

        Returns:
          uint8 [k, height, width, channels].
        """


# ways to fit images of any size to a shape; `decode.FITS` has the functions, and needs Pillow
WHOLE, CENTRAL = "whole_square", "central_crop"


@runtime_checkable
class FittedSource(Source, Protocol):
    """A source that fits image files of any size to its shape."""

    @property
    def fit(self) -> str:
        """How, by its name in `decode.FITS`."""

    def fitted(self, fit: str) -> Source:
        """Make the source of the same records that fits them in another way."""


class ArraySource:
    """Images in memory.

    Args:
      images: uint8 [n, height, width, channels].
      labels: whole numbers from 0, [n].

    Raises:
      UserError: other arrays; the message says how to convert them.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        arrays.check_images(images, "images")
        arrays.check_labels(labels, len(images), "labels")
        if labels.dtype.kind not in "iu":
            raise UserError(f"labels are {labels.dtype}: give the classes' numbers, from 0")
        if len(labels) and not 0 <= labels.min() <= labels.max() < 2**31:
            raise UserError(f"labels are {labels.min()} to {labels.max()}: count classes from 0")
        self._images = images
        self.labels: np.ndarray = labels.astype(np.int32)

    @property
    def image_shape(self) -> ImageShape:
        """Height, width and channels of every image."""
        height, width, channels = self._images.shape[1:]
        return height, width, channels

    @functools.cached_property
    def identity(self) -> str:
        """A digest of shape, labels and pixels."""
        parts = [repr(self._images.shape).encode(), self.labels.tobytes()]
        return digest(*parts, np.ascontiguousarray(self._images).reshape(-1).data)

    def images(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Read the images of some records, [k] -> uint8 [k, height, width, channels].

        All records in order are returned without a copy, which would double the memory.
        """
        if np.array_equal(indices, np.arange(len(self._images))):
            return self._images
        return self._images[np.asarray(indices, np.intp)]


def all_images(source: Source) -> np.ndarray:
    """Read the images of all records, uint8 [n, height, width, channels]."""
    return source.images(np.arange(len(source.labels)))


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set for image classification.

    Attributes:
      name: of the data set.
      train: the training images.
      test: the test images.
      class_names: one for each label.
      mean: per channel, of images scaled to [0, 1]; what `normalize` subtracts.
      std: likewise; what `normalize` divides by.

    Raises:
      UserError: parts that are not consistent.
    """

    name: str
    train: Source
    test: Source
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.train.image_shape != self.test.image_shape:
            raise UserError(
                f"the training images of {self.name} are {_by(self.train.image_shape)} and the "
                f"test images {_by(self.test.image_shape)}: make them equal"
            )
        if (twice := arrays.repeated(self.class_names)) is not None:
            raise UserError(f"{self.name} has class name {twice!r} twice: once is right")
        for kind, source in (("training", self.train), ("test", self.test)):
            if not len(source.labels):
                raise UserError(f"{self.name} has no {kind} images")
            if (most := source.labels.max()) >= self.num_classes:
                raise UserError(
                    f"{self.name} has {kind} label {most} and {self.num_classes} class names: "
                    f"name all {most + 1} classes, from label 0 on"
                )
        channels = self.image_shape[2]
        for what, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != channels:
                raise UserError(
                    f"{what} of {self.name} has {len(values)} values: the images have {channels} "
                    "channels"
                )
            if not all(map(math.isfinite, values)) or (what == "std" and min(values) <= 0):
                right = "above 0" if what == "std" else "finite"
                raise UserError(
                    f"{what} of {self.name} is {', '.join(map(str, values))}: it must be {right}"
                )

    @classmethod
    def from_arrays(
        cls,
        name: str,
        train_images: Any,
        train_labels: Any,
        test_images: Any,
        test_labels: Any,
        class_names: Sequence[str] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> "Dataset":
        """Make a data set from the user's arrays.

        Args:
          name: of the data set.
          train_images: uint8 [n, height, width, channels]; [n, height, width] for one channel.
          train_labels: [n], any whole numbers, or texts.
          test_images: as `train_images`.
          test_labels: as `train_labels`, of the same classes.
          class_names: of the classes in order. Labels that are texts must be among them. With as
            many names as different numeric labels, the names belong to the sorted labels; with
            more names, a label is the position of its name, from 0. None: the names are the
            sorted labels.
          mean: per channel, of images scaled to [0, 1]; None: the training images' own.
          std: likewise.

        Raises:
          UserError: other arrays; the message says how to convert them.
        """
        train_pair = arrays.labelled_images(train_images, train_labels, "train")
        test_pair = arrays.labelled_images(test_images, test_labels, "test")
        names, numbers = arrays.number_classes(train_pair[1], test_pair[1], class_names)
        train, test = (
            ArraySource(images, np.array([numbers[label] for label in labels], np.int32))
            for images, labels in (train_pair, test_pair)
        )
        own = arrays.statistics(train_pair[0]) if mean is None or std is None else ((), ())
        mean, std = (
            arrays.numbers(own_values if given is None else given, what)
            for own_values, given, what in zip(own, (mean, std), ("mean", "std"), strict=True)
        )
        return cls(name, train, test, names, mean, std)

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> ImageShape:
        """Height, width and channels of every image."""
        return self.train.image_shape

    @functools.cached_property
    def identity(self) -> str:
        """A short hexadecimal digest of the splits, the class names and the images' shape."""
        facts = [self.train.identity, self.test.identity, self.class_names, self.image_shape]
        return digest(json.dumps(facts).encode())

    def empty_classes(self) -> tuple[str, ...]:
        """List the names of the classes without training images."""
        counts = np.bincount(self.train.labels, minlength=self.num_classes)
        return tuple(name for name, n in zip(self.class_names, counts, strict=True) if not n)

    def resized(self, size: int) -> "Dataset":
        """Reduce the images: each new pixel is the rounded mean of a block of pixels.

        `mean` and `std` are kept.

        Args:
          size: the new height and width, in pixels; must divide the present ones.

        Raises:
          UserError: an invalid size; the message lists the valid ones.
        """
        height, width, _ = self.image_shape
        sizes = [s for s in range(1, height + 1) if height % s == width % s == 0]
        if size not in sizes:
            raise UserError(
                f"dataset.image_size is {size}: {self.name} has images of {height}x{width} "
                f"pixels, valid: {', '.join(map(str, sizes))}"
            )
        if height == width == size:
            return self
        train, test = (
            ArraySource(_block_means(all_images(source), size), source.labels)
            for source in (self.train, self.test)
        )
        return dataclasses.replace(self, train=train, test=test)


# (folder of data sets, dataset.image_size or None) -> data set; `load` resizes images of another
# size, see `Dataset.resized`
DATASETS: Registry[Callable[[pathlib.Path, int | None], Dataset]] = Registry("data set")


def digest(*parts: bytes | memoryview) -> str:
    """Compute a short hexadecimal digest of some parts; it depends on where the parts end."""
    state = hashlib.blake2b(digest_size=8)
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.hexdigest()


def _block_means(images: np.ndarray, size: int) -> np.ndarray:
    n, height, width, channels = images.shape
    blocks = images.reshape(n, size, height // size, size, width // size, channels)
    return np.rint(blocks.mean((2, 4), np.float32)).astype(np.uint8)


def _by(shape: ImageShape) -> str:
    height, width, channels = shape
    return f"{height}x{width} pixels with {channels} channels"
