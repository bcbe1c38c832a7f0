"""Images in folders, one for each class: the user's own images, ImageNet and its subsets.

    FOLDER/train/CLASS/*.jpg    .jpeg, .png, .webp, .bmp, .gif and .tiff too, in upper or lower case
    FOLDER/val/CLASS/*.jpg      or FOLDER/test/, where there is no val/

The classes are the names of the folders, sorted, and are the same in both splits. The images of a
class are sorted by file name. Other files, and names that start with a dot, are ignored.

Loading only lists the files. Pillow decodes an image each time its record is read.
"""

import copy
import dataclasses
import functools
import os
import pathlib
import struct
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image, ImageOps

from bsce_jax.data.source import Dataset, ImageShape, digest
from bsce_jax.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# formats of a file's contents, whatever its name: for others Pillow may start a program
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
# of ImageNet; the literature uses them for its subsets too
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
# names of ImageNet-subset's folder in a data folder; the first that exists is read
SUBSET_FOLDERS = ("imagenet-subset", "imagenet-subset-84px")

_LAYOUT = "train/CLASS/*.jpg and val/CLASS/*.jpg (test/ will do for val/, .png and others for .jpg)"
# files that a thread decodes at a time
_CHUNK = 8


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
    train = data_dir / "train"
    test = data_dir / ("val" if os.path.isdir(data_dir / "val") else "test")
    for folder in (train, test):
        if not os.path.isdir(folder):
            raise UserError(f"no folder {folder}: {data_dir} should hold {_LAYOUT}")
    class_names = [entry.name for entry in _visible(train) if entry.is_dir()]
    if not class_names:
        raise UserError(f"no classes in {train}: {data_dir} should hold {_LAYOUT}")
    test_names = [entry.name for entry in _visible(test) if entry.is_dir()]
    if different := sorted(set(class_names) ^ set(test_names)):
        here, there = (train, test) if different[0] in class_names else (test, train)
        raise UserError(
            f"class {different[0]} is in {here} and not in {there}: both need the same classes"
        )
    return Dataset(
        name="image_folder",
        train=FolderSource(train, class_names, image_size, whole_square),
        test=FolderSource(test, class_names, image_size, central_crop),
        class_names=tuple(class_names),
        mean=MEAN,
        std=STD,
    )


def load_imagenet_subset(data_dir: pathlib.Path, image_size: int | None) -> Dataset:
    """List ImageNet-subset in a data folder: the original images, else those of 84 pixels.

    Args:
      data_dir: contains `imagenet-subset/` or `imagenet-subset-84px/`.
      image_size: height and width of every image, in pixels.

    Raises:
      UserError: it contains neither, or for a reason of `load`.
    """
    for name in SUBSET_FOLDERS:
        if os.path.isdir(data_dir / name):
            dataset = load(data_dir / name, image_size)
            return dataclasses.replace(dataset, name="imagenet_subset")
    raise UserError(
        f"no ImageNet-subset in {data_dir}: put it there as {' or '.join(SUBSET_FOLDERS)}, "
        f"a folder with {_LAYOUT}"
    )


class FolderSource:
    """Images in folders, one for each class, decoded when they are read.

    Args:
      folder: contains a folder for each class.
      class_names: the names of these folders.
      image_size: height and width of every image, in pixels.
      fit: converts an image of any size to that size: `whole_square` or `central_crop`.

    Raises:
      UserError: a class has no images, or a file is empty.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        class_names: Sequence[str],
        image_size: int,
        fit: Callable[[Image.Image, int], Image.Image],
    ):
        self._folder, self._size, self._fit = folder, image_size, fit
        self._files: list[str] = []  # CLASS/NAME
        self._bytes: list[int] = []
        counts = []
        for name in class_names:
            # files first: on most file systems is_file is free, and stat is not
            found = [
                entry
                for entry in _visible(folder / name)
                if entry.name.lower().endswith(SUFFIXES) and entry.is_file()
            ]
            if not found:
                raise UserError(f"no images in {folder / name}: no {', '.join(SUFFIXES)}")
            self._files += [f"{name}/{entry.name}" for entry in found]
            self._bytes += [entry.stat().st_size for entry in found]
            counts.append(len(found))
        if 0 in self._bytes:
            empty = folder / self._files[self._bytes.index(0)]
            raise UserError(f"cannot read {empty} as an image: it is empty")
        self.labels: np.ndarray = np.repeat(np.arange(len(counts), dtype=np.int32), counts)

    @property
    def image_shape(self) -> ImageShape:
        """Height, width and channels of every image."""
        return self._size, self._size, 3

    @functools.cached_property
    def identity(self) -> str:
        """A digest of the files' names, their sizes in bytes, and how images are resized."""
        names = "\0".join(self._files)
        how = f"{self._size} {self._fit.__name__}"
        sizes = np.array(self._bytes, "<i8").tobytes()
        return digest(how.encode(), os.fsencode(names), sizes)

    @property
    def keys(self) -> list[str]:
        """The file of every record and its size in bytes, CLASS/NAME:BYTES."""
        return [f"{file}:{size}" for file, size in zip(self._files, self._bytes, strict=True)]

    def subset(self, indices: Sequence[int]) -> "FolderSource":
        """Make the source of some of the records, in this order."""
        part = copy.copy(self)
        part.__dict__.pop("identity", None)  # computed from the lists below
        part._files = [self._files[i] for i in indices]
        part._bytes = [self._bytes[i] for i in indices]
        part.labels = self.labels[np.asarray(indices, np.intp)]
        return part

    def images(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Decode the images of some records, [k] -> uint8 [k, size, size, 3].

        Raises:
          UserError: a file that is not an image, or is damaged.
        """
        files = [self._folder / self._files[i] for i in indices]
        images = np.empty((len(files), *self.image_shape), np.uint8)

        def fill(start: int) -> None:
            for i, file in enumerate(files[start : start + _CHUNK], start):
                images[i] = np.asarray(self._fit(read_rgb(file), self._size))

        # threads, not processes: Pillow releases the GIL while it decodes
        with ThreadPoolExecutor() as pool:
            for _ in pool.map(fill, range(0, len(files), _CHUNK)):
                pass
        return images


def read_rgb(file: pathlib.Path) -> Image.Image:
    """Decode an image file to RGB.

    Raises:
      UserError: a file that is not an image of a format in `FORMATS`, or is damaged.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.mode.startswith(("I", "F")):  # Pillow would clip nearly all values to white
                raise UserError(f"{file} has 16-bit or 32-bit grey values: convert it to 8 bits")
            return image.convert("RGB")
    except _MALFORMED as error:
        raise UserError(f"cannot read {file} as an image: {error}") from error


def whole_square(image: Image.Image, size: int) -> Image.Image:
    """Crop the largest central square of an image, and resize it.

    Args:
      image: of any size.
      size: height and width of the result, in pixels; bilinear and antialiased.
    """
    return ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)


def central_crop(image: Image.Image, size: int) -> Image.Image:
    """Resize an image and crop its centre, as torchvision's Resize(256) and CenterCrop(224) do.

    The shorter side is resized to size * 256 / 224 pixels and the central square of `size` pixels
    is kept: 87.5 % of the shorter side. An image of size x size pixels is taken to be cropped
    already, and is returned unchanged.

    Args:
      image: of any size.
      size: height and width of the result, in pixels; bilinear and antialiased.
    """
    if image.size == (size, size):
        return image
    shorter = round(size * 256 / 224)
    # in whole numbers: rounding errors must not change the size by a pixel
    width, height = (side * shorter // min(image.size) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + size, top + size))


def _visible(folder: pathlib.Path) -> list[os.DirEntry[str]]:
    """List the entries of a folder, sorted by name, without hidden ones."""
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror}") from error
    return sorted(found, key=lambda entry: entry.name)


# what decoding arbitrary bytes can raise
_MALFORMED = (
    Image.DecompressionBombError,
    EOFError,
    OSError,
    SyntaxError,
    ValueError,
    struct.error,
    zlib.error,
)
