"""The stages of a network that come before its branches."""

from typing import Any

import flax.linen as nn
import jax


class Trunk(nn.Module):
    """The last map of a network, as the input of further stages.

    Attributes:
      network: images and `train` to features and maps.
      relu: whether the map is rectified, as between the stages of the whole network.
    """

    network: nn.Module
    relu: bool

    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Compute the map [batch, height, width, channels]."""
        _, maps = self.network(images, train)
        last: Any = maps[-1]
        return nn.relu(last) if self.relu else last
