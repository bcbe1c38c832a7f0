"""Images in folders, one for each class: the user's own images, ImageNet and its subsets.

    FOLDER/train/CLASS/*.jpg    .jpeg, .png, .webp, .bmp, .gif and .tiff too, in upper or lower case
    FOLDER/val/CLASS/*.jpg      or FOLDER/test/, where there is no val/

The classes are the names of the folders, sorted, and are the same in both splits. The images of a
class are sorted by file name. Other files, and names that start with a dot, are ignored.

Loading only lists the files. Pillow decodes an image each time its record is read.
"""

import copy
import functools
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from bsce_jax.data.decode import (
    RULES,
    central_crop,
    decode,
    random_resized_crop,
    read_all,
    whole_square,
)
from bsce_jax.data.source import Dataset, ImageShape, digest
from bsce_jax.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# of ImageNet; the literature uses them for its subsets too
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
LAYOUT = "train/CLASS/*.jpg and val/CLASS/*.jpg (test/ will do for val/, .png and others for .jpg)"


def load(data_dir: pathlib.Path, image_size: int | None) -> Dataset:
    """List the images of a folder.

    Training images are whole centre squares, see `whole_square`; augmentation crops them. Test
    images are torchvision's usual central crops, see `central_crop`.

    Args:
      data_dir: the folder with `train/` and `val/` or `test/`.
      image_size: height and width of every image, in pixels.

    Returns:
      RGB images [n, image_size, image_size, 3], class by class.

    Raises:
      UserError: `image_size` is missing or not positive, the folder has another layout, a split
        lacks a class, a class has no images, or a file is empty.
    """
    if image_size is None:
        raise UserError(
            "dataset.image_size is needed for images in folders: the height and width, in pixels, "
            "that they are resized to"
        )
    if image_size < 1:
        raise UserError(f"dataset.image_size is {image_size}: it must be positive")
    train, test, folders = find(data_dir)
    return Dataset(
        name="image_folder",
        train=FolderSource(train, folders, image_size, whole_square),
        test=FolderSource(test, folders, image_size, central_crop),
        class_names=tuple(map(_text, folders)),
        mean=MEAN,
        std=STD,
    )


def find(data_dir: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path, list[str]]:
    """Find the folders of the two splits, and the names of the classes, sorted.

    Raises:
      UserError: the folder has another layout, or a split lacks a class.
    """
    train = data_dir / "train"
    test = data_dir / ("val" if os.path.isdir(data_dir / "val") else "test")
    for folder in (train, test):
        if not os.path.isdir(folder):
            raise UserError(f"no folder {folder}: {data_dir} should hold {LAYOUT}")
    class_names = [entry.name for entry in _visible(train) if entry.is_dir()]
    if not class_names:
        raise UserError(f"no classes in {train}: {data_dir} should hold {LAYOUT}")
    test_names = [entry.name for entry in _visible(test) if entry.is_dir()]
    if different := sorted(set(class_names) ^ set(test_names)):
        here, there = (train, test) if different[0] in class_names else (test, train)
        raise UserError(
            f"class {different[0]} is in {here} and not in {there}: both need the same classes"
        )
    return train, test, class_names


class FolderSource:
    """Images in folders, one for each class, decoded when they are read.

    Args:
      folder: contains a folder for each class.
      folders: the names of these folders.
      image_size: height and width of every image, in pixels.
      fit: converts an image of any size to that size: `whole_square` or `central_crop`.

    Attributes:
      files: the file of every record, as CLASS/NAME.
      sizes: of these files, in bytes.

    Raises:
      UserError: a class has no images, or a file is empty.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        folders: Sequence[str],
        image_size: int,
        fit: Callable[[Image.Image, int], Image.Image],
    ):
        self._folder, self._size, self._fit = folder, image_size, fit
        self.files: list[str] = []
        self.sizes: list[int] = []
        counts = []
        for name in folders:
            # files first: on most file systems is_file is free, and stat is not
            named = [e for e in _visible(folder / name) if e.name.lower().endswith(SUFFIXES)]
            found = [entry for entry in named if entry.is_file()]
            if len(found) < len(named):
                lost = [e for e in named if e.is_symlink() and not os.path.exists(e)]
                if lost:
                    raise UserError(f"{lost[0].path} is a link to a file that is missing")
            if not found:
                raise UserError(f"no images in {folder / name}: no {', '.join(SUFFIXES)}")
            self.files += [f"{name}/{entry.name}" for entry in found]
            self.sizes += [entry.stat().st_size for entry in found]
            counts.append(len(found))
        if 0 in self.sizes:
            empty = folder / self.files[self.sizes.index(0)]
            raise UserError(f"cannot read {empty} as an image: it is empty")
        self.labels: np.ndarray = np.repeat(np.arange(len(counts), dtype=np.int32), counts)

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
        """A digest of the files' names, their sizes in bytes, and how images are decoded."""
        names = "\0".join(self.files)
        how = f"{self._size} {self.fit} {RULES}"
        sizes = np.array(self.sizes, "<i8").tobytes()
        return digest(how.encode(), os.fsencode(names), sizes)

    @property
    def keys(self) -> list[str]:
        """The file of every record and its size in bytes, CLASS/NAME:BYTES."""
        return [f"{file}:{size}" for file, size in zip(self.files, self.sizes, strict=True)]

    def subset(self, indices: Sequence[int]) -> "FolderSource":
        """Make the source of some of the records, in this order."""
        part = copy.copy(self)
        part.__dict__.pop("identity", None)  # computed from the lists below
        part.files = [self.files[i] for i in indices]
        part.sizes = [self.sizes[i] for i in indices]
        part.labels = self.labels[np.asarray(indices, np.intp)]
        return part

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
    return decode(content, file)


def _text(name: str) -> str:
    """Read the name of a file as UTF-8, whatever the locale; other bytes become \\xNN."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _visible(folder: pathlib.Path) -> list[os.DirEntry[str]]:
    """List the entries of a folder, sorted by name, without hidden ones."""
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror}") from error
    return sorted(found, key=lambda entry: entry.name)
