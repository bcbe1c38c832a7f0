"""New photos, in files and folders, as the images that a trained network takes."""

import os
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageOps

from bsce_jax.data.decode import FITS, decode, threads
from bsce_jax.data.layouts import SUFFIXES, files_below, is_image
from bsce_jax.data.source import ImageShape
from bsce_jax.errors import UserError, unknown

MODES = {1: "L", 3: "RGB"}  # of Pillow, by the number of channels


def find(places: Iterable[str | os.PathLike[str]]) -> list[pathlib.Path]:
    """List the image files in some places, each once.

    Args:
      places: files, whatever their names, and folders. In a folder and below it the files with an
        ending of `SUFFIXES` count, sorted by path. Names that start with a dot are ignored.

    Raises:
      UserError: a place that does not exist, a folder that cannot be read, or no image in a folder.
    """
    found: list[pathlib.Path] = []
    for place in map(pathlib.Path, places):
        if place.is_dir():
            below = [place / name for name in files_below(place) if is_image(name)]
            if not below:
                raise UserError(f"no images in {place}: no {', '.join(SUFFIXES)}")
            found += below
        elif os.path.lexists(place):
            found.append(place)
        else:
            raise UserError(f"no file or folder {place}")
    return list(dict.fromkeys(found))


def read(
    files: Sequence[pathlib.Path], shape: ImageShape, fit: str
) -> tuple[np.ndarray, list[UserError | None]]:
    """Read image files, in the threads that all sources share.

    Args:
      files: [k].
      shape: height, width and channels of the images. One channel is grey, three are RGB.
      fit: how an image of another size is fitted, by its name in `decode.FITS`. Images that are no
        squares are fitted as `whole_square` does.

    Returns:
      The images of the files that can be read, uint8 [at most k, *shape], and for each file the
      error, None if it can be read.

    Raises:
      UserError: an unknown `fit`, or another number of channels.
    """
    height, width, channels = shape
    if fit not in FITS:
        raise unknown("way to fit images", fit, FITS)
    if channels not in MODES:
        raise UserError(f"the run's images have {channels} channels: photos have 1 or 3")

    def one(file: pathlib.Path) -> np.ndarray | UserError:
        try:
            image = decode(file.read_bytes(), file, MODES[channels])
        except OSError as error:
            return UserError(f"cannot read {file}: {error.strerror}")
        except UserError as error:
            return error
        if height == width:
            fitted = FITS[fit](image, height)
        elif image.size == (width, height):
            fitted = image
        else:
            fitted = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
        return np.asarray(fitted).reshape(shape)

    results = list(threads().map(one, files))
    images = [result for result in results if isinstance(result, np.ndarray)]
    errors = [result if isinstance(result, UserError) else None for result in results]
    return np.array(images, np.uint8).reshape(-1, *shape), errors
