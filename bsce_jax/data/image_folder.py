"""Images in files: the user's own images, ImageNet and its subsets.

They are in folders of one of the layouts of `layouts.py`, or in any folder that a listing names,
see `listing.py`. The images of a class are sorted by file name.

Loading only lists the files. Pillow decodes an image each time its record is read.
"""

import copy
import functools
import os
import pathlib
import stat
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from bsce_jax.data import listing
from bsce_jax.data.decode import (
    FITS,
    RULES,
    central_crop,
    decode,
    random_resized_crop,
    read_all,
    whole_square,
)
from bsce_jax.data.layouts import Split, find
from bsce_jax.data.source import Dataset, ImageShape, digest
from bsce_jax.errors import UserError

# of ImageNet; the literature uses them for its subsets too
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
# Skipped while training, a file would make the records depend on when it was found: a listing is
# made before, is the same for all processes, and says what it lacks.
LEAVE_OUT = "`python -m bsce_jax.prepare` finds such files; --max_unreadable leaves them out"


def load(data_dir: pathlib.Path, image_size: int | None) -> Dataset:
    """List the images of a folder.

    Training images are whole centre squares, see `whole_square`; augmentation crops them. Test
    images are torchvision's usual central crops, see `central_crop`.

    Args:
      data_dir: a folder of a known layout that has test images, or with a listing.
      image_size: height and width of every image, in pixels.

    Returns:
      RGB images [n, image_size, image_size, 3], class by class.

    Raises:
      UserError: `image_size` is missing or not positive, the folder has another layout or no test
        images, a class has no images, or a file is missing or empty.
    """
    if image_size is None:
        raise UserError(
            "dataset.image_size is needed for images in folders: the height and width, in pixels, "
            "that they are resized to"
        )
    if image_size < 1:
        raise UserError(f"dataset.image_size is {image_size}: it must be positive")
    listed = listing.read(data_dir)
    if listed is not None:
        train, test = listed.split("train", data_dir), listed.split("test", data_dir)
    else:
        found = find(data_dir)
        if found.test is None:
            raise UserError(
                f"{data_dir} has {len(found.train.class_names)} classes and no test images: hold "
                f"some out with `{listing.command(data_dir, data_dir)}`"
            )
        train, test = found.train, found.test
    names = train.class_names
    try:
        sources = (
            FolderSource(train, names, image_size, whole_square),
            FolderSource(test, names, image_size, central_crop),
        )
    except UserError as error:
        if listed is None:
            raise
        again = listing.command(train.folder, data_dir)
        raise UserError(f"{error}; if it is meant to be so, `{again}` leaves it out") from error
    return Dataset("image_folder", *sources, tuple(map(_text, names)), MEAN, STD)


class FolderSource:
    """Images in files, decoded when they are read.

    Args:
      split: the files.
      class_names: of all classes; a label is a position in it.
      image_size: height and width of every image, in pixels.
      fit: converts an image of any size to that size: `whole_square` or `central_crop`.

    Attributes:
      files: the file of every record, below the folder of the split.
      sizes: of these files, in bytes.

    Raises:
      UserError: a file is missing or empty.
    """

    def __init__(
        self,
        split: Split,
        class_names: Sequence[str],
        image_size: int,
        fit: Callable[[Image.Image, int], Image.Image],
    ):
        self._folder, self._size, self._fit = split.folder, image_size, fit
        self.files = split.files
        self.sizes = [size_of(os.path.join(split.folder, file)) for file in split.files]
        place = {name: label for label, name in enumerate(class_names)}
        self.labels: np.ndarray = np.array([place[name] for name in split.classes], np.int32)

    @property
    def image_shape(self) -> ImageShape:
        """Height, width and channels of every image."""
        return self._size, self._size, 3

    @property
    def fit(self) -> str:
        """How images are fitted to `image_shape`, by its name in `decode.FITS`."""
        return self._fit.__name__

    @functools.cached_property
    def identity(self) -> str:
        """A digest of the files' names, sizes in bytes and labels, and how images are decoded."""
        names = "\0".join(self.files)
        how = f"{self._size} {self.fit} {RULES}"
        sizes = np.array(self.sizes, "<i8").tobytes()
        return digest(how.encode(), os.fsencode(names), sizes, self.labels.tobytes())

    @property
    def keys(self) -> list[str]:
        """The file of every record and its size in bytes, such as CLASS/NAME:BYTES."""
        return [f"{file}:{size}" for file, size in zip(self.files, self.sizes, strict=True)]

    def subset(self, indices: Sequence[int]) -> "FolderSource":
        """Make the source of some of the records, in this order."""
        part = copy.copy(self)
        part.__dict__.pop("identity", None)  # computed from the lists below
        part.files = [self.files[i] for i in indices]
        part.sizes = [self.sizes[i] for i in indices]
        part.labels = self.labels[np.asarray(indices, np.intp)]
        return part

    def fitted(self, fit: str) -> "FolderSource":
        """Make the source of the same records, fitted in another way of `decode.FITS`."""
        other = copy.copy(self)
        other.__dict__.pop("identity", None)
        other._fit = FITS[fit]
        return other

    def images(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Decode the images of some records, [k] -> uint8 [k, size, size, 3].

        Raises:
          UserError: a file that is not an image, or is damaged.
        """

        def read(record: int) -> np.ndarray:
            image = read_rgb(self._folder / self.files[record])
            return np.asarray(self._fit(image, self._size))

        return read_all(read, indices, self.image_shape)

    def crops(self, indices: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Decode random-resized crops of some records, [k] and [k] -> uint8 [k, size, size, 3].

        Raises:
          UserError: as `images`.
        """

        def read(i: int) -> np.ndarray:
            image = read_rgb(self._folder / self.files[indices[i]])
            return np.asarray(random_resized_crop(image, self._size, seeds[i]))

        return read_all(read, range(len(indices)), self.image_shape)


def read_rgb(file: pathlib.Path) -> Image.Image:
    """Decode an image file to RGB.

    Raises:
      UserError: a file that is missing, not an image, or damaged; see `decode.decode`.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error
    try:
        return decode(content, file)
    except UserError as error:
        raise UserError(f"{error} ({LEAVE_OUT})") from error


def size_of(file: str | os.PathLike[str]) -> int:
    """Find the size of an image file in bytes, which is not read.

    Raises:
      UserError: it is missing, empty, or no file.
    """
    try:
        status = os.stat(file)
    except OSError as error:
        if os.path.islink(file):
            raise UserError(f"{file} is a link to a file that is missing") from error
        raise UserError(f"cannot read {file}: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"cannot read {file} as an image: it is no file")
    if not status.st_size:
        raise UserError(f"cannot read {file} as an image: it is empty")
    return status.st_size


def _text(name: str) -> str:
    """Read the name of a file as UTF-8, whatever the locale; other bytes become \\xNN."""
    return os.fsencode(name).decode(errors="backslashreplace")
