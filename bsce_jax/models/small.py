"""A network of two convolutions, for 8x8 digits."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from bsce_jax.models.conv import Conv
from bsce_jax.models.norm import BatchNorm


class SmallNet(nn.Module):
    """Two stages of convolution, BatchNorm and ReLU; 64 features.

    Attributes:
      final_relu: whether the features are rectified; cosine heads want them as they are.
      dtype: of the computation; parameters, statistics and features are float32.
    """

    final_relu: bool = True
    dtype: jnp.dtype = jnp.dtype(jnp.float32)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        x, maps = images, []
        for width, stride in ((32, 1), (64, 2)):
            x = Conv(width, stride=stride, dtype=self.dtype)(x)
            x = BatchNorm(dtype=self.dtype)(x, train)
            maps.append(x)
            if stride == 1 or self.final_relu:
                x = nn.relu(x)
        return jnp.mean(x, axis=(1, 2), dtype=jnp.float32), tuple(maps)
