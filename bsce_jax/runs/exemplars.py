"""The exemplars of a finished run as images, so that the run can be extended without its data.

RUN/exemplars/images.npy        uint8 [m, height, width, channels]: class by class in order of
                                arrival, those of a class best first
RUN/exemplars/exemplars.json    how many each class has
"""

import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import IO, Any

import numpy as np

from bsce_jax.data import ArraySource, Source
from bsce_jax.errors import UserError
from bsce_jax.files import MALFORMED, write_atomically, write_json

SCHEMA = 1
CHUNK = 256  # images read at a time


class StoredImages(ArraySource):
    """Images that are stored at the size that they are used in."""

    def crops(self, indices: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Cut random-resized crops, [k] and uint64 [k] -> uint8 [k, size, size, channels]."""
        from PIL import Image

        from bsce_jax.data.decode import random_resized_crop, read_all

        def read(i: int) -> np.ndarray:
            image = Image.fromarray(self.images([indices[i]])[0])
            return np.asarray(random_resized_crop(image, self.image_shape[0], seeds[i]))

        return read_all(read, range(len(indices)), self.image_shape)


def write(
    folder: pathlib.Path, source: Source, exemplars: Sequence[Sequence[int]], labels: Sequence[int]
) -> None:
    """Write the exemplars of a run.

    Args:
      folder: of the run.
      source: of the training images.
      exemplars: records of each class, in order of arrival.
      labels: of these classes.
    """
    records = np.array([record for kept in exemplars for record in kept], np.int64)
    sum_ = hashlib.sha256()

    def save(f: IO[bytes]) -> None:
        shape = (len(records), *source.image_shape)
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(f, header)
        for start in range(0, len(records), CHUNK):
            part = np.ascontiguousarray(source.images(records[start : start + CHUNK])).tobytes()
            sum_.update(part)
            f.write(part)

    place = folder / "exemplars"
    write_atomically(place / "images.npy", save)
    description = {
        "schema": SCHEMA,
        "labels": list(labels),
        "counts": [len(kept) for kept in exemplars],
        "images_sha256": sum_.hexdigest(),
    }
    write_json(place / "exemplars.json", description)


def read(folder: pathlib.Path) -> tuple[StoredImages, list[int]]:
    """Read the exemplars of a finished run; the images stay in their file until they are used.

    Args:
      folder: of the run.

    Returns:
      The images with the labels of their classes, and how many each class has, in order of arrival.

    Raises:
      UserError: they are missing or damaged.
    """
    place = folder / "exemplars"
    try:
        description: Any = json.loads((place / "exemplars.json").read_bytes())
        labels, counts = description["labels"], description["counts"]
        path = place / "images.npy"  # which cannot be mapped if it has no images
        images = np.load(path, mmap_mode="r") if sum(counts) else np.load(path)
        source = StoredImages(images, np.repeat(np.array(labels, int), np.array(counts, int)))
        right = description["schema"] == SCHEMA and description["images_sha256"] == _sum(images)
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is missing: the run's command writes it anew") from error
    except (UserError, RecursionError, *MALFORMED) as error:
        raise UserError(f"{place} is damaged: the run's command writes it anew") from error
    if not right:
        raise UserError(f"{place} is damaged: the run's command writes it anew")
    return source, counts


def _sum(images: np.ndarray) -> str:
    state = hashlib.sha256()
    for start in range(0, len(images), CHUNK):
        state.update(np.ascontiguousarray(images[start : start + CHUNK]).data)
    return state.hexdigest()
