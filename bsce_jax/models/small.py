"""A network of two convolutions, for 8x8 digits."""

from dataclasses import field

import flax.linen as nn
import jax
import jax.numpy as jnp

from bsce_jax.models.channels import with_offset
from bsce_jax.models.names import NETWORKS
from bsce_jax.models.ops.conv import Conv
from bsce_jax.models.ops.norm import BatchNorm
from bsce_jax.models.ops.platform import default_platform
from bsce_jax.models.trunk import Trunk


@NETWORKS.register("small")
class SmallNet(nn.Module):
    """Two stages of convolution, BatchNorm and ReLU; 64 features.

    Attributes:
      final_relu: whether the features are rectified; cosine heads need features without ReLU.
      dtype: of the computation; parameters, statistics and features are float32.
      platform: of the devices, as named by `default_platform`.
      stages: width and stride of each convolution.
    """

    final_relu: bool = True
    dtype: jnp.dtype = jnp.dtype(jnp.float32)
    platform: str = field(default_factory=default_platform)
    stages: tuple[tuple[int, int], ...] = ((32, 1), (64, 2))

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        x, maps = images, list[jax.Array]()
        for width, stride in self.stages:
            x = Conv(width, stride=stride, dtype=self.dtype, platform=self.platform)(x)
            x = BatchNorm(dtype=self.dtype, platform=self.platform)(x, train)
            x = with_offset(self, len(maps), x)
            maps.append(x)
            if stride == 1 or self.final_relu:
                x = nn.relu(x)
        return jnp.mean(x, axis=(1, 2), dtype=jnp.float32), tuple(maps)

    @nn.nowrap
    def split(self) -> tuple[nn.Module, nn.Module]:
        """Split it into the first convolution and the second, see `Trunk`."""
        first, second = (self.clone(stages=(stage,)) for stage in self.stages)
        return Trunk(first, relu=True), second
