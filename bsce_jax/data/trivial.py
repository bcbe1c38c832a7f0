"""TrivialAugment and Cutout, on the device: augmentations stronger than the published protocols'.

Every function is pure and takes a whole batch, as in `augment.py`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.ndimage import map_coordinates
from jax.typing import ArrayLike

from bsce_jax.data.pixels import AUGMENTATIONS, to_float

BINS = 31  # strengths of each operation
GREY = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green and blue
BLUR = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13

# (image [height, width, channels] float32 in 0 to 255, strength [] in 0 to 1, sign [] +1 or -1)
Operation = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


@AUGMENTATIONS.register("trivial")
def trivial_augment(key: jax.Array, images: ArrayLike) -> jax.Array:
    """Apply one random operation of random strength to each image (TrivialAugment).

    The operations and strengths are those of "TrivialAugmentWide" (Mueller and Hutter 2021), as
    torchvision has them, with pixels outside the image black.

    Args:
      key: of the random numbers.
      images: [batch, height, width, channels], uint8 or floating-point.

    Returns:
      [batch, height, width, channels], floating-point in [0, 1].
    """
    levels = jnp.round(to_float(images) * 255)
    batch = len(levels)
    which, strength, sign = jax.random.split(key, 3)
    which = jax.random.randint(which, (batch,), 0, len(OPERATIONS))
    strength = jax.random.randint(strength, (batch,), 0, BINS) / (BINS - 1)
    sign = jax.random.rademacher(sign, (batch,), jnp.float32)
    operations = list(OPERATIONS.values())
    apply = lambda image, i, m, s: lax.switch(i, operations, image, m, s)
    changed = jax.vmap(apply)(levels, which, strength, sign)
    return jnp.clip(changed, 0, 255) / 255


@AUGMENTATIONS.register("cutout")
def cutout(key: jax.Array, images: ArrayLike) -> jax.Array:
    """Black out a random square of each image, of half its height (DeVries and Taylor 2017).

    Its centre is uniform among the pixels, so that it may reach over the edge.

    Args:
      key: of the random numbers.
      images: [batch, height, width, channels].

    Returns:
      As `images`.
    """
    images = jnp.asarray(images)
    batch, height, width, _ = images.shape
    side = height // 2
    first = jax.random.randint(key, (batch, 2), 0, jnp.array([[height, width]])) - side // 2

    def inside(axis: int, length: int) -> jax.Array:
        place = jnp.arange(length)[None] - first[:, axis, None]
        return (place >= 0) & (place < side)

    square = inside(0, height)[:, :, None] & inside(1, width)[:, None, :]
    return jnp.where(square[..., None], 0, images)


def _moved(image: jax.Array, matrix: list[list[ArrayLike]], offset: list[ArrayLike]) -> jax.Array:
    """Take each pixel from the place matrix (y, x) + offset, to the nearest pixel; 0 outside."""
    height, width, _ = image.shape
    y, x = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    places = [row[0] * y + row[1] * x + start for row, start in zip(matrix, offset, strict=True)]
    take = lambda channel: map_coordinates(channel, places, order=0, mode="constant", cval=0.0)
    return jax.vmap(take, in_axes=-1, out_axes=-1)(image)


def _shear_x(image: jax.Array, strength: jax.Array, sign: jax.Array) -> jax.Array:
    shear = 0.99 * strength * sign
    return _moved(image, [[1, 0], [shear, 1]], [0, 0.5 * shear])


def _shear_y(image: jax.Array, strength: jax.Array, sign: jax.Array) -> jax.Array:
    shear = 0.99 * strength * sign
    return _moved(image, [[1, shear], [0, 1]], [0.5 * shear, 0])


def _translate_x(image: jax.Array, strength: jax.Array, sign: jax.Array) -> jax.Array:
    return _moved(image, [[1, 0], [0, 1]], [0, -sign * jnp.floor(32 * strength)])


def _translate_y(image: jax.Array, strength: jax.Array, sign: jax.Array) -> jax.Array:
    return _moved(image, [[1, 0], [0, 1]], [-sign * jnp.floor(32 * strength), 0])


def _rotate(image: jax.Array, strength: jax.Array, sign: jax.Array) -> jax.Array:
    """Rotate about the centre, counter-clockwise with sign +1, by at most 135 degrees."""
    angle = jnp.deg2rad(135 * strength * sign)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    y, x = ((length - 1) / 2 for length in image.shape[:2])
    return _moved(image, [[cos, sin], [-sin, cos]], [y - cos * y - sin * x, x + sin * y - cos * x])


def _blend(image: jax.Array, other: ArrayLike, strength: jax.Array, sign: jax.Array) -> jax.Array:
    """Go from another image to this one, and beyond it with sign +1."""
    factor = 1 + 0.99 * strength * sign
    return jnp.clip(factor * image + (1 - factor) * other, 0, 255)


def _grey(image: jax.Array) -> jax.Array:
    """Return the brightness of each pixel, [height, width, 1]."""
    channels = image.shape[-1]
    weights = GREY if channels == 3 else np.full(channels, 1 / channels, np.float32)
    return jnp.sum(image * weights[None, None], axis=-1, keepdims=True)


def _brightness(image: jax.Array, strength: jax.Array, sign: jax.Array) -> jax.Array:
    return _blend(image, 0.0, strength, sign)


def _color(image: jax.Array, strength: jax.Array, sign: jax.Array) -> jax.Array:
    return _blend(image, _grey(image), strength, sign)


def _contrast(image: jax.Array, strength: jax.Array, sign: jax.Array) -> jax.Array:
    return _blend(image, jnp.mean(_grey(image)), strength, sign)


def _sharpness(image: jax.Array, strength: jax.Array, sign: jax.Array) -> jax.Array:
    """Go from the blurred image, whose border is not blurred, to this one and beyond."""
    height, width, _ = image.shape
    inner = sum(
        BLUR[dy, dx] * image[dy : height - 2 + dy, dx : width - 2 + dx]
        for dy in range(3)
        for dx in range(3)
    )
    return _blend(image, image.at[1:-1, 1:-1].set(inner), strength, sign)


def _posterize(image: jax.Array, strength: jax.Array, sign: jax.Array) -> jax.Array:
    """Keep 8 to 2 bits of each level."""
    step = 2 ** jnp.round(6 * strength)
    return jnp.floor(image / step) * step


def _solarize(image: jax.Array, strength: jax.Array, sign: jax.Array) -> jax.Array:
    """Invert the levels from a threshold on, which is 255 at strength 0 and 0 at 1."""
    return jnp.where(image >= 255 * (1 - strength), 255 - image, image)


def _autocontrast(image: jax.Array, strength: jax.Array, sign: jax.Array) -> jax.Array:
    """Stretch the levels of each channel to 0 to 255."""
    low, high = (reduce(image, axis=(0, 1), keepdims=True) for reduce in (jnp.min, jnp.max))
    return jnp.where(high > low, 255 * (image - low) / jnp.maximum(high - low, 1), image)


def _equalize(image: jax.Array, strength: jax.Array, sign: jax.Array) -> jax.Array:
    """Give each channel a flat histogram, as Pillow does."""

    def channel(levels: jax.Array) -> jax.Array:
        index = levels.astype(jnp.int32)
        counts = jnp.zeros(256, jnp.int32).at[index.ravel()].add(1)
        step = (index.size - counts[jnp.max(index)]) // 255
        table = (jnp.cumsum(counts) - counts + step // 2) // jnp.maximum(step, 1)
        return jnp.where(step > 0, jnp.clip(table, 0, 255)[index].astype(levels.dtype), levels)

    return jax.vmap(channel, in_axes=-1, out_axes=-1)(image)


OPERATIONS: dict[str, Operation] = {
    "identity": lambda image, strength, sign: image,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
    "rotate": _rotate,
    "brightness": _brightness,
    "color": _color,
    "contrast": _contrast,
    "sharpness": _sharpness,
    "posterize": _posterize,
    "solarize": _solarize,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
}
