"""Image files to pixels: the formats that are read, their conversion, and how they are resized.

The format is told by a file's contents, whatever its name. An EXIF orientation is applied, and
transparent pixels are put on white. Of an animation the first image is read.
"""

import functools
import io
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageFile,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from bsce_jax.data.crops import random_box
from bsce_jax.data.source import CENTRAL, WHOLE
from bsce_jax.errors import UserError

# version of the rules below, part of the identity of what is decoded by them
RULES = 2
# larger images are refused: decoding one would take 400 MB
MAX_PIXELS = 128_000_000
MAX_RATIO = 100  # of the sides

# records that a thread decodes at a time
_CHUNK = 8
# Image.open would warn about sizes by limits of its own, and some formats start programs
_FORMATS: dict[bytes, type[ImageFile.ImageFile]] = {
    b"\xff\xd8\xff": JpegImagePlugin.JpegImageFile,
    b"\x89PNG\r\n\x1a\n": PngImagePlugin.PngImageFile,
    b"RIFF": WebPImagePlugin.WebPImageFile,
    b"BM": BmpImagePlugin.BmpImageFile,
    b"GIF8": GifImagePlugin.GifImageFile,
    b"II*\0": TiffImagePlugin.TiffImageFile,
    b"MM\0*": TiffImagePlugin.TiffImageFile,
}
# by the value of the EXIF orientation: what makes the image upright
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
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


def open_image(content: bytes, name: object) -> Image.Image:
    """Read the header of an image file, and no pixels.

    Args:
      content: of the file.
      name: of the file, for messages.

    Raises:
      UserError: a file of no known format, of more than `MAX_PIXELS`, with a side of more than
        `MAX_RATIO` times the other, with grey values of more than 8 bits, or whose header is
        damaged.
    """
    if not content:
        raise UserError(f"cannot read {name} as an image: it is empty")
    form = next((form for start, form in _FORMATS.items() if content.startswith(start)), None)
    if form is None:
        raise UserError(
            f"cannot read {name} as an image: it is no JPEG, PNG, WebP, BMP, GIF or TIFF file"
        )
    try:
        image = form(io.BytesIO(content))
    except _MALFORMED as error:
        raise _unreadable(name, error) from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UserError(
            f"{name} has {width}x{height} pixels: images of more than {MAX_PIXELS:,} are refused"
        )
    if max(width, height) > MAX_RATIO * min(width, height):  # resized before it is cropped
        raise UserError(
            f"{name} has {width}x{height} pixels: images with a side of more than {MAX_RATIO} "
            "times the other are refused"
        )
    if image.mode.startswith(("I", "F")):  # Pillow would clip nearly all values to white
        raise UserError(f"{name} has 16-bit or 32-bit grey values: convert it to 8 bits")
    return image


def decode(content: bytes, name: object, mode: str = "RGB") -> Image.Image:
    """Decode an image file.

    Args:
      content: of the file.
      name: of the file, for messages.
      mode: of the result, "RGB" or "L" (grey).

    Raises:
      UserError: a file that `open_image` refuses, or that is damaged.
    """
    image = open_image(content, name)
    try:
        image.load()
        turn = _turn(image)
        if image.has_transparency_data:
            colours = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, colours)
        flat = image if image.mode == mode else image.convert(mode)  # convert would copy it
    except _MALFORMED as error:
        raise _unreadable(name, error) from error
    return flat if turn is None else flat.transpose(turn)


def check(content: bytes, name: object) -> Image.Image:
    """Check that an image file can be decoded; return what `open_image` does.

    A JPEG is decoded at an eighth of its size, which reads all of the file in a third of the time.

    Raises:
      UserError: as `decode`.
    """
    image = open_image(content, name)
    small = open_image(content, name)
    try:
        small.draft(None, (1, 1))
        small.load()
    except _MALFORMED as error:
        raise _unreadable(name, error) from error
    return image


def whole_square(image: Image.Image, size: int) -> Image.Image:
    """Crop the largest central square of an image, and resize it.

    Args:
      image: of any size; one of size x size pixels is returned unchanged.
      size: height and width of the result, in pixels; bilinear and antialiased.
    """
    if image.size == (size, size):
        return image
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


def random_resized_crop(image: Image.Image, size: int, seed: int) -> Image.Image:
    """Cut a random box out of an image, and resize it.

    Args:
      image: of any size.
      size: height and width of the result, in pixels; bilinear and antialiased.
      seed: from `seeds`.
    """
    box = random_box(seed, *image.size)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)


# by name, how an image is fitted to a height and a width
FITS: dict[str, Callable[[Image.Image, int], Image.Image]] = {
    WHOLE: whole_square,
    CENTRAL: central_crop,
}


def read_all(
    read: Callable[[int], np.ndarray],
    records: Sequence[int] | np.ndarray,
    shape: tuple[int, int, int],
) -> np.ndarray:
    """Read images in the threads that all sources share.

    Args:
      read: gives the image of a record, of `shape`; called in any thread.
      records: to read, [k].
      shape: height, width and channels.

    Returns:
      uint8 [k, *shape].
    """
    images = np.empty((len(records), *shape), np.uint8)

    def fill(start: int) -> None:
        for i, record in enumerate(records[start : start + _CHUNK], start):
            images[i] = read(int(record))

    for _ in threads().map(fill, range(0, len(records), _CHUNK)):
        pass
    return images


@functools.cache
def threads() -> ThreadPoolExecutor:
    """Make the threads that decode: one pool for all sources, as many as there are cores.

    A job that waits for another one of the pool, as `Source.images` does, must not run in it.
    """
    # threads, not processes: Pillow releases the GIL while it decodes
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="decode")


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Choose what makes an image upright; None if it is, or if the EXIF part is damaged."""
    try:
        return _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (LookupError, TypeError, *_MALFORMED):
        return None


def _unreadable(name: object, error: Exception) -> UserError:
    return UserError(f"cannot read {name} as an image: {error}")
