"""Pairs of images of a batch, mixed into one: `config.train.mixing`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from bsce_jax.registry import Registry

# (key, images [batch, height, width, channels], other images) -> mixed images, share of `images`
Mixing = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
MIXINGS: Registry[Mixing] = Registry("mixing")


@MIXINGS.register("mixup")
def mixup(key: jax.Array, images: jax.Array, others: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Average two images with random weights (Zhang et al. 2018, alpha = 1).

    Args:
      key: of the random numbers; a batch has one weight.
      images: [batch, height, width, channels], floating-point.
      others: likewise.

    Returns:
      The mixed images, and the weight of `images`, [].
    """
    share = jax.random.uniform(key)
    return share * images + (1 - share) * others, share


@MIXINGS.register("cutmix")
def cutmix(key: jax.Array, images: jax.Array, others: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Replace a random box of an image by that of another (Yun et al. 2019, alpha = 1).

    The box has the image's proportions and a random area; its centre is anywhere in the image, and
    what lies outside is cut off. Box and area are one for a batch.

    Args:
      key: of the random numbers.
      images: [batch, height, width, channels].
      others: likewise.

    Returns:
      The mixed images, and the part of the area that is from `images`, [].
    """
    height, width = images.shape[1:3]
    area, y, x = jax.random.uniform(key, (3,))
    inside = []
    for size, centre in ((height, y), (width, x)):
        length = jnp.floor(size * jnp.sqrt(area))
        first = jnp.floor(size * centre) - jnp.floor(length / 2)
        place = jnp.arange(size)
        inside.append((place >= first) & (place < first + length))
    box = inside[0][:, None] & inside[1][None]
    return jnp.where(box[None, :, :, None], others, images), 1 - box.mean()


def mix(
    mixing: Mixing, key: jax.Array, images: jax.Array, labels: jax.Array, replayed: int = 0
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Mix each image of a batch with a random other one.

    Args:
      mixing: one of `MIXINGS`.
      key: of the random numbers.
      images: [batch, height, width, channels].
      labels: [batch].
      replayed: how many exemplars are at the end of the batch; they are mixed with one another.

    Returns:
      The mixed images; the labels of the images with the larger share, [batch]; the labels of the
      others, [batch]; the larger share, [].
    """
    key_order, key_mixing = jax.random.split(key)
    new = len(labels) - replayed
    key_new, key_replayed = jax.random.split(key_order)
    order = jnp.concatenate(
        [
            jax.random.permutation(key_new, new),
            new + jax.random.permutation(key_replayed, replayed),
        ]
    )
    mixed, share = mixing(key_mixing, images, images[order])
    others = labels[order]
    mine = share >= 0.5
    first, second = jnp.where(mine, labels, others), jnp.where(mine, others, labels)
    return mixed, first, second, jnp.maximum(share, 1 - share)
