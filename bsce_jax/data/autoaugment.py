"""AutoAugment's policy for CIFAR, on the device, with the operations of `trivial.py`."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from bsce_jax.data.pixels import AUGMENTATIONS, to_float
from bsce_jax.data.trivial import OPERATIONS, Operation


class Part(NamedTuple):
    """An operation of a sub-policy: its probability, and its magnitude of 0 to 9."""

    operation: str
    probability: float
    magnitude: int = 0


# Cubuk et al. 2019, table of the appendix for CIFAR-10; the paper has it for CIFAR-100 too
POLICY = (
    (Part("invert", 0.1), Part("contrast", 0.2, 6)),
    (Part("rotate", 0.7, 2), Part("translate_x", 0.3, 9)),
    (Part("sharpness", 0.8, 1), Part("sharpness", 0.9, 3)),
    (Part("shear_y", 0.5, 8), Part("translate_y", 0.7, 9)),
    (Part("autocontrast", 0.5), Part("equalize", 0.9)),
    (Part("shear_y", 0.2, 7), Part("posterize", 0.3, 7)),
    (Part("color", 0.4, 3), Part("brightness", 0.6, 7)),
    (Part("sharpness", 0.3, 9), Part("brightness", 0.7, 9)),
    (Part("equalize", 0.6), Part("equalize", 0.5)),
    (Part("contrast", 0.6, 7), Part("sharpness", 0.6, 5)),
    (Part("color", 0.7, 7), Part("translate_x", 0.5, 8)),
    (Part("equalize", 0.3), Part("autocontrast", 0.4)),
    (Part("translate_y", 0.4, 3), Part("sharpness", 0.2, 6)),
    (Part("brightness", 0.9, 6), Part("color", 0.2, 8)),
    (Part("solarize", 0.5, 2), Part("invert", 0.0)),
    (Part("equalize", 0.2), Part("autocontrast", 0.6)),
    (Part("equalize", 0.2), Part("equalize", 0.6)),
    (Part("color", 0.9, 9), Part("equalize", 0.6)),
    (Part("autocontrast", 0.8), Part("solarize", 0.2, 8)),
    (Part("brightness", 0.1, 3), Part("color", 0.7, 0)),
    (Part("solarize", 0.4, 5), Part("autocontrast", 0.9)),
    (Part("translate_y", 0.9, 9), Part("translate_y", 0.7, 9)),
    (Part("autocontrast", 0.9), Part("solarize", 0.8, 3)),
    (Part("equalize", 0.8), Part("invert", 0.1)),
    (Part("translate_y", 0.7, 9), Part("autocontrast", 0.9)),
)


def _invert(image: jax.Array, strength: jax.Array, sign: jax.Array) -> jax.Array:
    return 255 - image


ALL: dict[str, Operation] = {**OPERATIONS, "invert": _invert}
NAMES = tuple(ALL)


def strength_of(part: Part, width: int) -> float:
    """Convert a magnitude to the strength that the operation of `trivial.py` takes.

    Args:
      part: of a sub-policy.
      width: of the images; translations are relative to it.
    """
    share = part.magnitude / 9
    greatest = {
        "shear_x": 0.3 / 0.99,
        "shear_y": 0.3 / 0.99,
        "translate_x": 150 / 331 * width / 32,
        "translate_y": 150 / 331 * width / 32,
        "rotate": 30 / 135,
        "solarize": 1.0,
        **dict.fromkeys(("brightness", "color", "contrast", "sharpness"), 0.9 / 0.99),
    }
    if part.operation == "posterize":
        return round(4 * share) / 6  # down to 4 bits
    return greatest.get(part.operation, 0.0) * share


@AUGMENTATIONS.register("autoaugment")
def autoaugment(key: jax.Array, images: ArrayLike) -> jax.Array:
    """Apply a random sub-policy of AutoAugment to each image (Cubuk et al. 2019).

    Each of its two operations is applied with its probability, and in a random direction. Pixels
    outside the image are black.

    Args:
      key: of the random numbers.
      images: [batch, height, width, channels], uint8 or floating-point.

    Returns:
      [batch, height, width, channels], floating-point in [0, 1].
    """
    levels = jnp.round(to_float(images) * 255)
    batch, _, width, _ = levels.shape
    key_which, key_applied, key_sign = jax.random.split(key, 3)
    which = jax.random.randint(key_which, (batch,), 0, len(POLICY))
    applied = jax.random.uniform(key_applied, (batch, 2))
    signs = jax.random.rademacher(key_sign, (batch, 2), jnp.float32)
    operations = list(ALL.values())
    apply = jax.vmap(lambda image, i, m, s: lax.switch(i, operations, image, m, s))
    for number in range(2):
        parts = [pair[number] for pair in POLICY]
        table = lambda values, dtype=np.float32: jnp.asarray(np.array(list(values), dtype))[which]
        operation = table((NAMES.index(part.operation) for part in parts), np.int32)
        strength = table(strength_of(part, width) for part in parts)
        chance = table(part.probability for part in parts)
        changed = apply(levels, operation, strength, signs[:, number])
        taken = (applied[:, number] < chance)[:, None, None, None]
        levels = jnp.where(taken, jnp.clip(jnp.round(changed), 0, 255), levels)
    return levels / 255
