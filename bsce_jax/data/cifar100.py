"""The official files of CIFAR-100 (Krizhevsky, 2009): 60000 images of 32x32 pixels in 100 classes.

The files are pickles: their md5 is checked, and they are read by an unpickler that builds only
plain data.
"""

import hashlib
import io
import os
import pathlib
import pickle
import tarfile
import zlib
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from bsce_jax.data.source import ArraySource, Dataset
from bsce_jax.errors import UserError

URL = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
ARCHIVE_MD5 = "eb9058c3a382ffc7106e4002c42a8d85"
FOLDER = "cifar-100-python"
MD5 = {
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}
LARGEST = 160 * 2**20  # bytes, more than any of the official files has
# LUCIR's, used in the literature; the std over all pixels is larger (0.267, 0.256, 0.276)
MEAN = (0.5071, 0.4866, 0.4409)
STD = (0.2009, 0.1984, 0.2023)
# the tfds data set in a data folder: name and version of the builder
PREPARED = pathlib.Path("cifar100_python", "1.0.0")

T = TypeVar("T")


def official_folder(path: pathlib.Path) -> pathlib.Path | None:
    """Find the unpacked official folder: in a folder, or the folder itself; None if neither."""
    for folder in (path / FOLDER, path):
        if os.path.isfile(folder / "train"):  # also False for a folder without read permission
            return folder
    return None


def read_official(source: pathlib.Path) -> Dataset:
    """Read the official files.

    Args:
      source: the official archive, the unpacked folder, or the parent of the unpacked folder.

    Raises:
      UserError: the files are missing, or are not the official ones.
    """
    try:
        contents = _read_folder(source) if source.is_dir() else _read_archive(source)
    except OSError as error:
        raise UserError(f"cannot read {error.filename or source}: {error.strerror}") from error
    return Dataset(
        name="cifar100",
        train=_parse(source, contents, "train", _split),
        test=_parse(source, contents, "test", _split),
        class_names=_parse(source, contents, "meta", _class_names),
        mean=MEAN,
        std=STD,
    )


def _read_folder(source: pathlib.Path) -> dict[str, bytes]:
    folder = official_folder(source)
    if folder is None:
        raise UserError(f"{source} is not the {FOLDER} folder and does not contain it")
    contents = {}
    for name in MD5:
        with open(folder / name, "rb") as f:
            contents[name] = f.read(LARGEST)  # the md5 of a longer file differs
    return contents


def _read_archive(source: pathlib.Path) -> dict[str, bytes]:
    """Read the three files out of the archive; nothing is extracted to disk."""
    contents = {}
    with source.open("rb") as f:
        md5 = hashlib.file_digest(f, _md5).hexdigest()
        f.seek(0)
        try:
            with tarfile.open(fileobj=f, mode="r:gz") as archive:
                for member in archive:
                    path = pathlib.PurePosixPath(member.name)
                    file = archive.extractfile(member) if member.isfile() else None
                    if file and path.name in MD5 and path.parent.name == FOLDER:
                        contents[path.name] = file.read(LARGEST)
        except (EOFError, OSError, tarfile.TarError, zlib.error):
            contents.clear()
    if contents.keys() != MD5.keys():
        raise UserError(
            f"{source} is damaged or not {FOLDER}.tar.gz: "
            f"its md5 is {md5}, not {ARCHIVE_MD5}; get it again from {URL}"
        )
    return contents


def _parse(
    source: pathlib.Path,
    contents: dict[str, bytes],
    name: str,
    convert: Callable[[dict[bytes, Any]], T],
) -> T:
    """Check and unpickle one of the official files."""
    content = contents[name]
    if (md5 := _md5(content).hexdigest()) != MD5[name]:
        raise UserError(
            f"{name} in {source} is damaged or not of CIFAR-100: "
            f"its md5 is {md5}, not {MD5[name]}; get it again from {URL}"
        )
    try:
        return convert(_PlainUnpickler(io.BytesIO(content), encoding="bytes").load())
    except _MALFORMED as error:
        raise UserError(f"{name} in {source} is not a CIFAR-100 file: {error}") from error


def _md5(content: bytes = b"") -> "hashlib._Hash":
    return hashlib.md5(content, usedforsecurity=False)


def _split(record: dict[bytes, Any]) -> ArraySource:
    images = record[b"data"].values.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    labels = np.array(record[b"fine_labels"], np.int32)
    return ArraySource(np.ascontiguousarray(images), labels)


def _class_names(record: dict[bytes, Any]) -> tuple[str, ...]:
    return tuple(name.decode() for name in record[b"fine_label_names"])


class _UInt8:
    """Stands in for numpy's dtype."""

    def __init__(self, code: bytes, *_: object):
        if code != b"u1":
            raise pickle.UnpicklingError(f"it holds an array of type {code!r}")

    def __setstate__(self, state: object) -> None:
        pass


class _Array:
    """Stands in for numpy's array: stores uint8 values and has no other behaviour."""

    def __init__(self, *_: object):
        self.values = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple[int, tuple[int, ...], _UInt8, bool, bytes]) -> None:
        _, shape, _, _, content = state
        self.values = np.frombuffer(content, np.uint8).reshape(shape)


_STAND_INS: dict[tuple[str, str], type] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _UInt8,
}


class _PlainUnpickler(pickle.Unpickler):
    """Builds strings, numbers, lists, dicts and uint8 arrays, and refuses anything else."""

    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _STAND_INS[module, name]


# what unpickling and converting arbitrary bytes can raise
_MALFORMED = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    TypeError,
    UserError,  # raised by ArraySource for invalid arrays
    ValueError,
    pickle.UnpicklingError,
)
