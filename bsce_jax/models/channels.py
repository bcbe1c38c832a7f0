"""How much each channel of the feature maps matters to the loss (AFC)."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bsce_jax import losses
from bsce_jax.models.classifier import Classifier, Outputs

IMPORTANCE = "importance_"  # followed by the number of the map, in the collection `batch_stats`


class ChannelClassifier(Classifier):
    """A classifier that keeps the importance of each channel of its maps, 1 at first."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> Outputs:
        """Apply the classifier; the importance has no influence."""
        outputs = super().__call__(images, train)
        for number, one in enumerate(outputs.maps):
            self.variable("batch_stats", f"{IMPORTANCE}{number}", jnp.ones, one.shape[-1:])
        return outputs


def with_offset(module: nn.Module, number: int, one: jax.Array) -> jax.Array:
    """Add to a backbone's map the offset of its number, if there are offsets.

    The gradient by an offset of zero is that by the map. Offsets are in the collection `offsets`,
    which only `squared_gradients` fills.
    """
    if not module.has_variable("offsets", f"map_{number}"):
        return one
    return one + module.get_variable("offsets", f"map_{number}")


@functools.partial(jax.jit, static_argnums=0)
def squared_gradients(
    network: Classifier,
    variables: Any,
    images: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    seen: np.int32,
) -> list[jax.Array]:
    """Compute the squared gradients of the cross-entropy by the feature maps.

    Args:
      network: in inference mode; its backbone uses `with_offset`.
      variables: of the network.
      images: [batch, height, width, channels] float32, normalised.
      labels: [batch].
      weights: [batch], 0 for a sample that does not count.
      seen: number of classes that compete.

    Returns:
      For each map the sum over its pixels and over the batch, [channels].
    """
    maps = jax.eval_shape(lambda: network.apply(variables, images, train=False)).maps
    zeros = {f"map_{number}": jnp.zeros(one.shape, one.dtype) for number, one in enumerate(maps)}

    def loss(offsets: dict[str, jax.Array]) -> jax.Array:
        given = {**variables, "offsets": {"backbone": offsets}}
        outputs: Any = network.apply(given, images, train=False)
        among = jnp.where(jnp.arange(outputs.logits.shape[-1]) < seen, 0.0, -jnp.inf)
        return jnp.sum(weights * losses.softmax_cross_entropy(outputs.logits, labels, among))

    slopes = jax.grad(loss)(zeros)
    return [jnp.square(slopes[name].astype(jnp.float32)).sum((0, 1, 2)) for name in zeros]
