"""A split of a prepared tfds set as a source, read without TensorFlow.

The labels of a split are read once and written beside the records, so that the next start reads no
images.
"""

import copy
import functools
import logging
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from google.protobuf.message import DecodeError
from PIL import Image
from rich.console import Console
from rich.progress import track

from bsce_jax.data.decode import FITS, RULES, decode, random_resized_crop, read_all
from bsce_jax.data.source import WHOLE, ImageShape, digest
from bsce_jax.errors import UserError
from bsce_jax.files import write_atomically

CHECKSUMS = "SHA256SUMS"

_log = logging.getLogger(__name__)

Fit = Callable[[Image.Image, int], Image.Image]


class TfdsSource:
    """A split of a prepared data set; encoded images are decoded when they are read.

    Args:
      folder: of the prepared set.
      builder: of the set.
      split: as tfds writes it.
      field: of the config that names the split, for messages.
      label: name of the feature that is the label.
      image: name of the feature that is the image.
      image_size: height and width that encoded images are resized to, or None.
      fit: converts an image to that size: `whole_square` or `central_crop`.

    Attributes:
      instructions: the parts of files that hold the records.
      labels: of all records, int32 [n].

    Raises:
      UserError: as `read`.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        builder: Any,
        split: str,
        field: str,
        label: str,
        image: str,
        image_size: int | None,
        fit: Fit,
    ):
        self._folder, self._split, self._image, self._fit = folder, split, image, fit
        self._builder = builder
        feature = builder.info.features[image]
        self._encoded = _is_encoded(feature)
        self._size = image_size if self._encoded else None
        self.image_shape: ImageShape = _shape(folder, feature, self._size)
        decoders = {image: tfds.decode.SkipDecoding()} if self._encoded else None
        try:
            self.instructions = builder.info.splits[split].file_instructions
            if not self.instructions:
                raise ValueError("it selects no images")
            self._records = builder.as_data_source(split, decoders=decoders)
        except (LookupError, ValueError) as error:
            raise UserError(
                f"dataset.{field} is {split!r}, and {folder} has {', '.join(builder.info.splits)}: "
                f"{first_line(error)}"
            ) from error
        self.labels: np.ndarray = self._read_labels(label)

    @property
    def fit(self) -> str:
        """How images are fitted to `image_shape`, by its name in `decode.FITS`.

        Stored squares of that size, which are used unchanged, are taken to be whole images.
        """
        shape = self._builder.info.features[self._image].shape[:2]
        made = (self._builder.info.metadata or {}).get("size")  # by `python -m bsce_jax.prepare`
        whole = self._size in (None, made) or shape == (self._size, self._size)
        return WHOLE if whole else self._fit.__name__

    def fitted(self, fit: str) -> "TfdsSource":
        """Make the source of the same records, fitted in another way of `decode.FITS`."""
        other = copy.copy(self)
        other.__dict__.pop("identity", None)
        other._fit = FITS[fit]
        return other

    @functools.cached_property
    def identity(self) -> str:
        """A digest of the set's name, version and checksums, the split, its labels, and decoding.

        It is the same wherever the set lies.
        """
        how = f"{self._size} {self._fit.__name__} {RULES}" if self._encoded else ""
        return digest(self.key.encode(), self.labels.tobytes(), how.encode())

    @functools.cached_property
    def key(self) -> str:
        """A digest of the set's name, version and checksums and the split, without its labels."""
        return split_key(self._folder, self._builder, self._split)

    def images(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Read the images of some records, [k] -> uint8 [k, height, width, channels].

        Raises:
          UserError: a record that is damaged, or is not an image.
        """
        return read_all(self._read_image, indices, self.image_shape)

    def crops(self, indices: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Read random-resized crops of some records, [k] and [k] -> uint8 [k, size, size, 3].

        Raises:
          UserError: as `images`, or the images have one size already.
        """
        if self._size is None:
            raise UserError(
                f"{self._folder} has no image files to crop: set dataset.image_size, or use "
                "resized_crop in train.augmentation"
            )

        def read(i: int) -> np.ndarray:
            fit = functools.partial(random_resized_crop, seed=seeds[i])
            return self._read_image(indices[i], fit)

        return read_all(read, range(len(indices)), self.image_shape)

    def _read_image(self, record: int, fit: Fit | None = None) -> np.ndarray:
        value = self.read(record)[self._image]
        name = self._name(record)
        if not self._encoded:
            return value
        if not isinstance(value, bytes):
            raise UserError(f"{name} is damaged: delete the data set and prepare it again")
        image = decode(value, name, "L" if self.image_shape[2] == 1 else "RGB")
        pixels = np.asarray(image if self._size is None else (fit or self._fit)(image, self._size))
        if pixels.shape[:2] != self.image_shape[:2]:
            raise UserError(f"{name} has {image.height}x{image.width} pixels: set image_size")
        return pixels.reshape(self.image_shape)

    def read(self, record: int) -> Any:
        """Read a record: its features by name, an encoded image as bytes.

        Raises:
          UserError: the record is damaged.
        """
        try:
            return self._records[record]
        # array_record's errors are RuntimeErrors; a wrong file may hold other features
        except (DecodeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(
                f"{self._name(record)} is damaged: {first_line(error)}; delete the data set and "
                "prepare it again"
            ) from error

    def _name(self, record: int) -> str:
        return f"record {record} of {self._split} in {self._folder}"

    def _read_labels(self, label: str) -> np.ndarray:
        """Read the labels from their own file; make it where there is none yet."""
        file = labels_file(self._folder, self.key)
        labels = _stored_labels(file, len(self._records))
        if labels is None:
            console = Console(stderr=True)
            found = (self.read(record)[label] for record in range(len(self._records)))
            shown = track(
                found,
                f"reading the labels of {self._split}, once",
                len(self._records),
                console=console,
                transient=True,
                disable=not console.is_terminal,
            )
            labels = np.fromiter(shown, np.int32, len(self._records))
            try:
                write_labels(file, labels)
            except OSError as error:
                _log.warning("cannot write %s (%s): labels are read anew", file, error.strerror)
        if len(labels) and labels.min() < 0:
            raise UserError(
                f"split {self._split} of {self._folder} has images without label: choose another"
            )
        return labels


def split_key(folder: pathlib.Path, builder: Any, split: str) -> str:
    """Compute a digest of a split of a prepared set: its name, version, sizes and checksums."""
    info = builder.info
    parts = [f"{info.name} {info.config_name} {info.version}"]
    # sorted: tfds reads them in an order that differs between processes
    parts += [f"{name} {info.features[name]}" for name in sorted(info.features)]
    parts += [
        f"{one.name} {one.num_examples} {one.shard_lengths} {int(one.num_bytes)}"
        for one in info.splits.values()
    ]
    parts += [
        f"{os.path.basename(one.filename)} {one.skip} {one.take}"
        for one in info.splits[split].file_instructions
    ]
    checksums = folder / CHECKSUMS
    content = checksums.read_bytes() if checksums.is_file() else b""
    return digest(*(part.encode() for part in parts), content)


def labels_file(folder: pathlib.Path, key: str) -> pathlib.Path:
    """Name the file of a split's labels; see `split_key`."""
    return folder / f"labels-{key}.npy"


def write_labels(file: pathlib.Path, labels: np.ndarray) -> None:
    """Write labels, int32 [n], and then their digest, which numpy ignores."""

    def write(f: Any) -> None:
        np.save(f, labels)
        f.write(digest(labels.tobytes()).encode())

    write_atomically(file, write)


def _stored_labels(file: pathlib.Path, count: int) -> np.ndarray | None:
    """Read a file of labels; None if it is missing or damaged."""
    try:
        with open(file, "rb") as f:
            labels = np.load(f, allow_pickle=False)
            intact = f.read() == digest(labels.tobytes()).encode()
    except (EOFError, OSError, ValueError):
        return None
    return labels if intact and labels.shape == (count,) and labels.dtype == np.int32 else None


def _is_encoded(feature: Any) -> bool:
    # LabeledImage, a mask, is an Image too
    return type(feature) is tfds.features.Image


def find_features(folder: pathlib.Path, builder: Any) -> tuple[str, str]:
    """Find the feature that is the label and the one that is the image.

    Raises:
      UserError: there is none, or there are several.
    """
    features = builder.info.features
    labels = [n for n, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
    images = [n for n, f in features.items() if _is_encoded(f)] or [
        n
        for n, f in features.items()
        if type(f) is tfds.features.Tensor and len(f.shape) == 3 and f.np_dtype == np.uint8
    ]
    for kind, found in (("ClassLabel", labels), ("image", images)):
        if len(found) != 1:
            has = ", ".join(sorted(found)) or "none"
            raise UserError(
                f"{folder} has the features {', '.join(sorted(features))}: one {kind} is needed, "
                f"and it has {has}"
            )
    return labels[0], images[0]


def _shape(folder: pathlib.Path, feature: Any, image_size: int | None) -> ImageShape:
    """Choose the shape of the images of a feature."""
    height, width, channels = feature.shape
    if feature.np_dtype != np.uint8:
        kind = np.dtype(feature.np_dtype).name
        raise UserError(f"{folder} has images of {kind}: uint8 is right")
    if not _is_encoded(feature):
        if None in feature.shape:
            raise UserError(f"{folder} has raw images of different shapes: one shape is needed")
        return height, width, channels
    channels = 1 if channels == 1 else 3
    if image_size is not None:
        return image_size, image_size, channels
    if height is None or width is None:
        raise UserError(
            f"dataset.image_size is needed for {folder}, whose images have different sizes: the "
            "height and width, in pixels, that they are resized to"
        )
    return height, width, channels


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type where there is none."""
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
