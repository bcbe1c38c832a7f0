"""The listing of a prepared image folder: which photos it has, and where they are.

    DATA_DIR/images.json    made by `python -m bsce_jax.prepare image_folder`

The photos stay where they are. A photo is known by its path below the folder of all photos, so that
the folder may move.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import shlex
from collections.abc import Iterable
from typing import Any, NamedTuple

from bsce_jax.data.layouts import Split
from bsce_jax.errors import UserError
from bsce_jax.files import MALFORMED, write_json

FILE = "images.json"
SCHEMA = 1


class Photo(NamedTuple):
    """An image file: its path below the source, its label, and its size in bytes and in pixels."""

    file: str
    label: int
    bytes: int
    width: int
    height: int


@dataclasses.dataclass(frozen=True)
class Listing:
    """The photos of a data set.

    Attributes:
      source: the folder that they are in, absolute or below the folder of the listing.
      test_fraction: of each class that is held out; None if the source itself has test images.
      seed: of the choice of those that are held out.
      class_names: of the labels.
      train: sorted by label and by path.
      test: likewise.
    """

    source: str
    test_fraction: float | None
    seed: int
    class_names: list[str]
    train: list[Photo]
    test: list[Photo]

    def split(self, name: str, data_dir: pathlib.Path) -> Split:
        """List the files of a split.

        Args:
          name: "train" or "test".
          data_dir: the folder of the listing.

        Raises:
          UserError: the folder of the photos is not there.
        """
        folder = data_dir / self.source
        if not folder.is_dir():
            raise UserError(
                f"no folder {folder}, where the photos of {data_dir} were: give their new place, "
                f"`{command('PHOTOS', data_dir)}`"
            )
        photos: list[Photo] = getattr(self, name)
        classes = [self.class_names[photo.label] for photo in photos]
        files = [photo.file for photo in photos]
        return Split(FILE, folder, self.class_names, files, classes)


def command(source: str | os.PathLike[str], data_dir: pathlib.Path) -> str:
    """Write the command that makes the listing of a folder."""
    words = ["python", "-m", "bsce_jax.prepare", "image_folder", "--source", os.fspath(source)]
    return shlex.join([*words, "--data_dir", os.fspath(data_dir)])


def relative(source: pathlib.Path, data_dir: pathlib.Path) -> str:
    """Name the folder of the photos: from the listing's folder if it is inside that, else whole."""
    whole, base = (os.path.abspath(path) for path in (source, data_dir))
    inside = os.path.commonpath([whole, base]) == base
    return os.path.relpath(whole, base) if inside else whole


def hold_out(
    files: Iterable[str], fraction: float, seed: int, tested: set[str], trained: set[str]
) -> set[str]:
    """Choose the test images of a class.

    A photo that was chosen for one side before stays there. The others are taken in the order of a
    hash of their paths, so the choice does not depend on what else there is.

    Args:
      files: of the class.
      fraction: of them to hold out, rounded; at least one, but not the last one.
      seed: of the hash.
      tested: files that are test images already.
      trained: files that are training images already.

    Returns:
      The test images.
    """
    every = set(files)
    chosen = every & tested
    wanted = min(len(every) - 1, max(1, round(fraction * len(every))))
    new = sorted(every - tested - trained, key=lambda file: _hash(file, seed))
    return chosen | set(new[: max(0, wanted - len(chosen))])


def write(data_dir: pathlib.Path, listing: Listing) -> None:
    """Write the listing of a folder."""
    write_json(data_dir / FILE, {"schema": SCHEMA, **dataclasses.asdict(listing)})


def read(data_dir: pathlib.Path) -> Listing | None:
    """Read the listing of a folder; None if it has none.

    Raises:
      UserError: it is damaged.
    """
    path = data_dir / FILE
    try:
        value = json.loads(path.read_bytes())
        if value.pop("schema") != SCHEMA:
            raise ValueError
        value |= {name: list(map(_photo, value[name])) for name in ("train", "test")}
        listing = Listing(**value)
        _check(listing)
        return listing
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (RecursionError, *MALFORMED) as error:
        raise UserError(
            f"{path} is damaged: delete it, and make it again with `{command('PHOTOS', data_dir)}`"
        ) from error


def _photo(row: list[Any]) -> Photo:
    photo = Photo(*row)
    if type(photo.file) is not str or not all(type(number) is int for number in photo[1:]):
        raise ValueError
    return photo


def _check(listing: Listing) -> None:
    labels = range(len(listing.class_names))
    right = (
        type(listing.source) is str
        and type(listing.seed) is int
        and type(listing.test_fraction) in (float, type(None))
        and all(type(name) is str for name in listing.class_names)
        and all(photo.label in labels for photo in (*listing.train, *listing.test))
    )
    if not right:
        raise ValueError


def _hash(file: str, seed: int) -> bytes:
    return hashlib.blake2b(os.fsencode(file), digest_size=8, salt=seed.to_bytes(8)).digest()
