"""Random augmentation of a batch of images, on the device, drawn for each sample.

Every function is pure and takes a whole batch [batch, height, width, channels]. The result for a
sample depends only on the key, the image and its position in the batch, and not on the sharding.
Integer images have the range 0 to 255, floating-point images 0 to 1.
"""

import math
import re
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from bsce_jax.data import autoaugment, trivial  # noqa: F401  (imported to register)
from bsce_jax.data.pixels import AUGMENTATIONS, Augmentation, to_float
from bsce_jax.errors import UserError, unknown

__all__ = [
    "AUGMENTATIONS",
    "Augmentation",
    "make_augment",
    "normalize",
    "random_boxes",
    "random_brightness",
    "random_crop",
    "random_flip",
    "random_resized_crop",
    "source_crop",
    "to_float",
]

_AREA = (0.08, 1.0)  # area of a random box, as a share of the image's
_RATIO = (3 / 4, 4 / 3)  # width / height of the box
_TRIES = 10


def normalize(images: ArrayLike, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Subtract a mean and divide by a standard deviation, channel by channel.

    Args:
      images: [..., channels], uint8 or floating-point.
      mean: [channels], of images scaled to [0, 1].
      std: [channels], likewise.

    Returns:
      [..., channels], floating-point.
    """
    images = to_float(images)
    per_channel = (*(1,) * (images.ndim - 1), -1)
    centre, scale = (jnp.array(x, images.dtype).reshape(per_channel) for x in (mean, std))
    return (images - centre) / scale


@AUGMENTATIONS.register("crop")
def random_crop(key: jax.Array, images: ArrayLike, padding: int = 4) -> jax.Array:
    """Pad each image with zeros on all sides, and crop a random window of the original size.

    Args:
      key: of the random numbers.
      images: [batch, height, width, channels].
      padding: in pixels, CIFAR's usual 4; the (2 padding + 1)^2 windows are equally likely.

    Returns:
      As `images`.
    """
    images = jnp.asarray(images)
    batch, *shape = images.shape
    corners = jax.random.randint(key, (batch, 2), 0, 2 * padding + 1)
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))

    def cut(image: jax.Array, corner: jax.Array) -> jax.Array:
        return lax.dynamic_slice(image, (corner[0], corner[1], 0), shape)

    return jax.vmap(cut)(padded, corners)


def random_boxes(key: jax.Array, batch: int, image_size: tuple[int, int]) -> jax.Array:
    """Draw the boxes of a random resized crop, as torchvision's RandomResizedCrop does.

    The share of the image's area is uniform in [0.08, 1], the logarithm of width / height uniform
    in [log 3/4, log 4/3]; both sides are rounded. The first of 10 draws that fits into the image is
    taken, and its place is uniform among the pixels. If none fits, the box is the largest central
    one with a width / height in that range. (Szegedy et al., "Going deeper with convolutions".)

    Args:
      key: of the random numbers.
      batch: the number of boxes.
      image_size: height and width, in pixels.

    Returns:
      int32 [batch, 2, 2]: the upper left corner (y, x) of each box and its size (height, width),
      in pixels.
    """
    height, width = image_size
    limits = jnp.array([image_size])
    # one draw for the batch: a sample's numbers depend only on the key and its row
    numbers = jax.random.uniform(key, (batch, 2 * _TRIES + 2))
    share, log_ratio, place = jnp.split(numbers, [_TRIES, 2 * _TRIES], axis=1)
    area = height * width * (_AREA[0] + (_AREA[1] - _AREA[0]) * share)
    low, high = map(math.log, _RATIO)
    ratio = jnp.exp(low + (high - low) * log_ratio)
    sizes = jnp.stack([jnp.sqrt(area / ratio), jnp.sqrt(area * ratio)], axis=2)
    sizes = jnp.round(sizes).astype(jnp.int32)  # [batch, tries, 2]
    fits = ((sizes > 0) & (sizes <= limits[None])).all(axis=2)
    found = fits.any(axis=1, keepdims=True)
    first = jnp.take_along_axis(sizes, fits.argmax(axis=1)[:, None, None], axis=1)[:, 0]
    middle = [min(height, round(width / _RATIO[0])), min(width, round(height * _RATIO[1]))]
    size = jnp.where(found, first, jnp.array([middle]))
    room = limits - size
    anywhere = jnp.floor(place * (room + 1)).astype(jnp.int32)
    return jnp.stack([jnp.where(found, anywhere, room // 2), size], axis=1)


@AUGMENTATIONS.register("resized_crop")
def random_resized_crop(key: jax.Array, images: ArrayLike) -> jax.Array:
    """Crop a random box of each image, and resize it bilinearly to the image's size.

    At the edges of the box the filter also reads pixels outside the box; torchvision's does not.

    Args:
      key: of the random numbers.
      images: [batch, height, width, channels], uint8 or floating-point.

    Returns:
      [batch, height, width, channels], floating-point in [0, 1].
    """
    images = to_float(images)
    batch, height, width, _ = images.shape
    boxes = random_boxes(key, batch, (height, width))

    def cut(image: jax.Array, box: jax.Array) -> jax.Array:
        corner, size = box.astype(jnp.float32)
        scale = jnp.array([height, width], jnp.float32) / size
        return jax.image.scale_and_translate(
            image, image.shape, (0, 1), scale, -corner * scale, "linear", antialias=True
        )

    # the weights add up to 1 only up to rounding
    return jnp.clip(jax.vmap(cut)(images, boxes), 0, 1)


@AUGMENTATIONS.register("flip")
def random_flip(key: jax.Array, images: ArrayLike) -> jax.Array:
    """Mirror each image left to right with probability 1/2.

    Args:
      key: of the random numbers.
      images: [batch, height, width, channels].

    Returns:
      As `images`.
    """
    images = jnp.asarray(images)
    mirrored = jax.random.bernoulli(key, shape=(len(images), 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


@AUGMENTATIONS.register("brightness")
def random_brightness(key: jax.Array, images: ArrayLike, strength: float = 63 / 255) -> jax.Array:
    """Multiply each image by a random factor and clip to [0, 1].

    Args:
      key: of the random numbers.
      images: [batch, height, width, channels], uint8 or floating-point.
      strength: the factor is uniform in [1 - strength, 1 + strength]; PODNet's is 63/255.

    Returns:
      [batch, height, width, channels], floating-point in [0, 1].
    """
    images = to_float(images)
    factor = jax.random.uniform(
        key, (len(images), 1, 1, 1), images.dtype, 1 - strength, 1 + strength
    )
    return jnp.clip(images * factor, 0, 1)


@AUGMENTATIONS.register("source_crop")
def source_crop(key: jax.Array, images: jax.Array) -> jax.Array:
    """Return the images unchanged: the streamed feed has cut them, see `data.crops`."""
    return images


def make_augment(policy: str) -> Augmentation:
    """Compose an augmentation of parts, applied in the given order.

    Args:
      policy: `"none"`, or names of `AUGMENTATIONS` joined by `"+"`: `"crop"`, `"resized_crop"`,
        `"source_crop"`, `"flip"`, `"brightness"`, `"autoaugment"`, `"trivial"` and `"cutout"`.
        LUCIR's is `"crop+flip"` for CIFAR-100 and `"resized_crop+flip"` for ImageNet, PODNet's
        `"crop+flip+brightness"` for CIFAR-100.

    Returns:
      A function of a key and of uint8 images [batch, height, width, channels] that returns
      float32 images in [0, 1] of the same shape, not normalised.

    Raises:
      UserError: an unknown part.
    """
    if re.search(r"[,;\s]", policy):
        joined = "+".join(re.findall(r"[^+,;\s]+", policy))
        raise UserError(f"augmentation {policy!r}: join its parts with '+', as in {joined!r}")
    names = [] if policy == "none" else policy.split("+")
    for name in names:
        if name not in AUGMENTATIONS:
            raise unknown(AUGMENTATIONS.kind, name, ["none", *AUGMENTATIONS])
    parts = [AUGMENTATIONS[name] for name in names]

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        for i, part in enumerate(parts):
            images = part(jax.random.fold_in(key, i), images)
        return to_float(images)

    return augment
