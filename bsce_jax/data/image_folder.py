"""Images in folders, one for each class: any set of one's own, and ImageNet-subset.

    FOLDER/train/CLASS/*.jpg    .jpeg and .png too, in capitals or not
    FOLDER/val/CLASS/*.jpg      or FOLDER/test/, where there is no val/

The classes are the names of the folders, sorted, the same in both splits; the images of a class
are sorted by file name. Other files, and those whose name starts with a dot, are left out. Pillow
decodes the images. They all stay in memory, 3 * size^2 bytes each: 400 MiB for 20000 images of
84x84 pixels, 15 GiB for the whole of ImageNet at 64x64.
"""

import dataclasses
import os
import pathlib
import struct
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image, ImageOps

from bsce_jax.data.source import Dataset, Split
from bsce_jax.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png")
# of ImageNet, which the literature uses for its subsets too
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
# what ImageNet-subset's folder is called in a data folder; the first that is there is read
SUBSET_FOLDERS = ("imagenet-subset", "imagenet-subset-84px")

_LAYOUT = "train/CLASS/*.jpg and val/CLASS/*.jpg (test/ will do for val/, .jpeg and .png for .jpg)"
# files that one thread decodes before it asks for more
_CHUNK = 64


def load(data_dir: pathlib.Path, image_size: int) -> Dataset:
    """Loads the images of a folder, decoded with Pillow.

    The shorter side is resized to `image_size`, bilinear and antialiased, and the middle is cut
    out of the longer one.

    Args:
      data_dir: the folder that holds `train/` and `val/` or `test/`.
      image_size: height and width of every image, in pixels.

    Returns:
      RGB images [n, image_size, image_size, 3], class by class.

    Raises:
      UserError: the folder is not laid out so, a split lacks a class or a class has no images, a
        file is not an image, or `image_size` is not positive.
    """
    if image_size < 1:
        raise UserError(f"dataset.image_size is {image_size}: it must be positive")
    train = data_dir / "train"
    test = data_dir / ("val" if os.path.isdir(data_dir / "val") else "test")
    for folder in (train, test):
        if not os.path.isdir(folder):
            raise UserError(f"no folder {folder}: {data_dir} should hold {_LAYOUT}")
    class_names = _visible(train, folders=True)
    if not class_names:
        raise UserError(f"no classes in {train}: {data_dir} should hold {_LAYOUT}")
    test_names = _visible(test, folders=True)
    if different := sorted(set(class_names) ^ set(test_names)):
        here, there = (train, test) if different[0] in class_names else (test, train)
        raise UserError(
            f"class {different[0]} is in {here} and not in {there}: both need the same classes"
        )
    return Dataset(
        name="image_folder",
        train=_read(train, class_names, image_size),
        test=_read(test, class_names, image_size),
        class_names=tuple(class_names),
        mean=MEAN,
        std=STD,
    )


def load_imagenet_subset(data_dir: pathlib.Path, image_size: int) -> Dataset:
    """Loads ImageNet-subset from a data folder: the images of 84 pixels if there, or the originals.

    Args:
      data_dir: holds `imagenet-subset-84px/` or `imagenet-subset/`.
      image_size: height and width of every image, in pixels.

    Raises:
      UserError: it holds neither, or for what `load` raises it.
    """
    for name in SUBSET_FOLDERS:
        if os.path.isdir(data_dir / name):
            dataset = load(data_dir / name, image_size)
            return dataclasses.replace(dataset, name="imagenet_subset")
    raise UserError(
        f"no ImageNet-subset in {data_dir}: put it there as {' or '.join(SUBSET_FOLDERS)}, "
        f"a folder that holds {_LAYOUT}"
    )


def _visible(folder: pathlib.Path, *, folders: bool) -> list[str]:
    """Lists the names of the folders or of the files in a folder, sorted, hidden ones left out."""
    try:
        with os.scandir(folder) as entries:
            kind = [e for e in entries if (e.is_dir() if folders else e.is_file())]
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror}") from error
    return sorted(e.name for e in kind if not e.name.startswith("."))


def _read(folder: pathlib.Path, class_names: Sequence[str], image_size: int) -> Split:
    """Reads one split."""
    files: list[pathlib.Path] = []
    counts = []
    for name in class_names:
        names = _visible(folder / name, folders=False)
        found = [folder / name / n for n in names if n.lower().endswith(SUFFIXES)]
        if not found:
            raise UserError(f"no images in {folder / name}: no {', '.join(SUFFIXES)}")
        files += found
        counts.append(len(found))
    images = np.empty((len(files), image_size, image_size, 3), np.uint8)

    def fill(start: int) -> None:
        for i, file in enumerate(files[start : start + _CHUNK], start):
            images[i] = _decode(file, image_size)

    # threads, not processes: Pillow lets go of the interpreter while it decodes
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(fill, range(0, len(files), _CHUNK)):
            pass
    return Split(images, np.repeat(np.arange(len(counts), dtype=np.int32), counts))


def _decode(file: pathlib.Path, size: int) -> np.ndarray:
    """Reads one image: uint8 [size, size, 3]."""
    try:
        with Image.open(file) as image:
            if image.mode.startswith("I"):  # Pillow would make all of it white
                raise UserError(f"{file} has 16-bit grey values: convert it to 8 bits")
            rgb = image.convert("RGB")
    except _MALFORMED as error:
        raise UserError(f"cannot read {file} as an image: {error}") from error
    return np.asarray(ImageOps.fit(rgb, (size, size), Image.Resampling.BILINEAR))


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
