"""Random changes to a batch of images, on the device, each sample with its own.

Every function works on a whole batch [batch, height, width, channels] and is pure: what happens
to a sample depends on the key and on its position in the batch alone, so it is the same however
the batch is sharded. Integer images mean 0 to 255, floating-point images 0 to 1.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from bsce_jax.errors import unknown


def to_float(images: ArrayLike) -> jax.Array:
    """Scales integer images to float32 in [0, 1]; leaves floating-point images alone."""
    images = jnp.asarray(images)
    if jnp.issubdtype(images.dtype, jnp.integer):
        return images.astype(jnp.float32) / 255
    return images


def normalize(images: ArrayLike, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Subtracts a mean and divides by a standard deviation, channel by channel.

    Args:
      images: [..., channels], uint8 or floating-point.
      mean: [channels], of images scaled to [0, 1].
      std: [channels], likewise.

    Returns:
      [..., channels], floating-point.
    """
    images = to_float(images)
    return (images - jnp.array(mean, images.dtype)) / jnp.array(std, images.dtype)


def random_crop(key: jax.Array, images: ArrayLike, padding: int) -> jax.Array:
    """Pads the images with zeros on all sides and cuts a window of the old size out of each.

    Args:
      key: of the random numbers.
      images: [batch, height, width, channels].
      padding: in pixels; every one of the (2 padding + 1)^2 windows is as likely.

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
    """Draws the boxes of a random resized crop (Szegedy et al., "Going deeper with convolutions").

    The share of the image's area is uniform in [0.08, 1], the logarithm of width / height uniform
    in [log 3/4, log 4/3]; what would be longer than the image is cut to it, so that such a box
    has less area. The place is uniform among those inside the image.

    Args:
      key: of the random numbers.
      batch: the number of boxes.
      image_size: height and width, in pixels.

    Returns:
      float32 [batch, 2, 2]: the upper left corner (y, x) of each box and its size (height,
      width), in pixels and fractions of them.
    """
    limits = jnp.array(image_size, jnp.float32)
    area, ratio, *place = jax.random.uniform(key, (batch, 4)).T
    area = jnp.prod(limits) * (0.08 + 0.92 * area)
    ratio = jnp.exp(math.log(4 / 3) * (2 * ratio - 1))
    size = jnp.stack([jnp.sqrt(area / ratio), jnp.sqrt(area * ratio)], axis=1)
    size = jnp.minimum(size, limits)
    return jnp.stack([(limits - size) * jnp.stack(place, axis=1), size], axis=1)


def random_resized_crop(key: jax.Array, images: ArrayLike) -> jax.Array:
    """Cuts a random box out of each image and stretches it to the image's size, bilinearly.

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
        corner, size = box
        scale = jnp.array([height, width]) / size
        return jax.image.scale_and_translate(
            image, image.shape, (0, 1), scale, -corner * scale, "linear", antialias=True
        )

    # weights add up to 1 but for rounding
    return jnp.clip(jax.vmap(cut)(images, boxes), 0, 1)


def random_flip(key: jax.Array, images: ArrayLike) -> jax.Array:
    """Mirrors each image left to right with probability 1/2.

    Args:
      key: of the random numbers.
      images: [batch, height, width, channels].

    Returns:
      As `images`.
    """
    images = jnp.asarray(images)
    mirrored = jax.random.bernoulli(key, shape=(len(images), 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


def random_brightness(key: jax.Array, images: ArrayLike, strength: float) -> jax.Array:
    """Multiplies each image by a factor of its own and clips to [0, 1].

    Args:
      key: of the random numbers.
      images: [batch, height, width, channels], uint8 or floating-point.
      strength: the factor is uniform in [1 - strength, 1 + strength].

    Returns:
      [batch, height, width, channels], floating-point in [0, 1].
    """
    images = to_float(images)
    factor = jax.random.uniform(
        key, (len(images), 1, 1, 1), images.dtype, 1 - strength, 1 + strength
    )
    return jnp.clip(images * factor, 0, 1)


_PARTS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "crop": functools.partial(random_crop, padding=4),
    "resized_crop": random_resized_crop,
    "flip": random_flip,
    # PODNet's strength
    "brightness": functools.partial(random_brightness, strength=63 / 255),
}


def make_augment(policy: str) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Builds an augmentation of parts, which are applied in the order given.

    Args:
      policy: `"none"`, or `"crop"`, `"resized_crop"`, `"flip"` and `"brightness"` joined by
        `"+"`; LUCIR's is `"crop+flip"` for CIFAR-100 and `"resized_crop+flip"` for ImageNet,
        PODNet's `"crop+flip+brightness"` for CIFAR-100.

    Returns:
      A function of a key and of uint8 images [batch, height, width, channels] that returns
      float32 images in [0, 1] of the same shape, not normalised.

    Raises:
      UserError: no such part.
    """
    parts = [] if policy == "none" else policy.split("+")
    for part in parts:
        if part not in _PARTS:
            raise unknown("augmentation", part, ["none", *_PARTS])

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        for i, part in enumerate(parts):
            images = _PARTS[part](jax.random.fold_in(key, i), images)
        return to_float(images)

    return augment
