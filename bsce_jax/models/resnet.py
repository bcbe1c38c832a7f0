"""Residual networks: ResNet-32 and ResNet-18 in the variants that the references use."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from bsce_jax.models.conv import Conv
from bsce_jax.models.norm import BatchNorm

Stages = tuple[tuple[int, int], ...]


class ResNet(nn.Module):
    """A residual network of basic blocks (He et al. 2016).

    A stage halves the map where its width differs from that of the stage before. The maps are the
    stages' last sums, before any ReLU.

    Attributes:
      stages: (blocks, width) of each stage.
      stem: `cifar` is a 3x3 convolution, `imagenet` a 7x7 one of stride 2 and a max pooling.
      shortcut: where the width changes, `projection` is a 1x1 convolution with BatchNorm (LUCIR),
        `padding` takes every second pixel and adds channels of zeros (option A: iCaRL, PODNet).
      block_relu: whether ReLU follows the sums between blocks; it does not in PODNet's code.
      zero_blocks: whether the last BatchNorm of each block starts at 0, and so the block as its
        shortcut; it does in PODNet's code.
      final_relu: whether the features are rectified; cosine heads want them as they are.
      dtype: of the computation; parameters, statistics and features are float32.
    """

    stages: Stages
    stem: str
    shortcut: str
    block_relu: bool = True
    zero_blocks: bool = False
    final_relu: bool = True
    dtype: jnp.dtype = jnp.dtype(jnp.float32)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        conv = partial(Conv, dtype=self.dtype)
        norm = lambda scale=1.0: partial(BatchNorm(scale=scale, dtype=self.dtype), train=train)
        width = self.stages[0][1]
        if self.stem == "imagenet":
            x = nn.relu(norm()(conv(width, size=7, stride=2)(images)))
            x = nn.max_pool(x, (3, 3), (2, 2), padding=[(1, 1), (1, 1)])
        else:
            x = nn.relu(norm()(conv(width)(images)))
        maps = []
        for number, (blocks, wanted) in enumerate(self.stages):
            for block in range(blocks):
                stride = 1 if wanted == width else 2
                y = nn.relu(norm()(conv(wanted, stride=stride)(x)))
                y = norm(0.0 if self.zero_blocks else 1.0)(conv(wanted)(y))
                if stride == 2 and self.shortcut == "projection":
                    x = norm()(conv(wanted, size=1, stride=2)(x))
                elif stride == 2:
                    x = jnp.pad(x[:, ::2, ::2], [(0, 0)] * 3 + [(0, wanted - width)])
                x = x + y
                width = wanted
                if block == blocks - 1:
                    maps.append(x)
                last = number == len(self.stages) - 1 and block == blocks - 1
                if self.final_relu if last else self.block_relu:
                    x = nn.relu(x)
        return jnp.mean(x, axis=(1, 2), dtype=jnp.float32), tuple(maps)
