"""The registry of augmentations, and the range of the pixels that they get."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from bsce_jax.registry import Registry

# (key, images), uint8 or float32 in [0, 1] -> such images of the same shape
Augmentation = Callable[[jax.Array, jax.Array], jax.Array]
AUGMENTATIONS: Registry[Augmentation] = Registry("augmentation")


def to_float(images: ArrayLike) -> jax.Array:
    """Scale integer images to float32 in [0, 1]; return floating-point images unchanged."""
    images = jnp.asarray(images)
    if jnp.issubdtype(images.dtype, jnp.integer):
        return images.astype(jnp.float32) / 255
    return images
