"""Residual networks: ResNet-32, ResNet-18 and ResNet-50 as the references use them."""

from dataclasses import field
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bsce_jax.models.channels import with_offset
from bsce_jax.models.names import NETWORKS
from bsce_jax.models.ops.conv import Conv
from bsce_jax.models.ops.norm import BatchNorm
from bsce_jax.models.ops.platform import default_platform
from bsce_jax.models.trunk import Trunk

Stages = tuple[tuple[int, int], ...]


class ResNet(nn.Module):
    """Residual network (He et al. 2016).

    A basic block has two 3x3 convolutions. A bottleneck has a 1x1, a 3x3 and a 1x1 convolution, and
    four times as many outputs; the 3x3 convolution has the stride, as in torchvision.

    A stage halves the map if its width differs from that of the previous stage. The returned maps
    are the last sum of each stage, before any ReLU.

    Attributes:
      stages: (blocks, width) of each stage.
      stem: `cifar` is a 3x3 convolution; `cifar_pool` is that and a max pooling of stride 2;
        `imagenet` is a 7x7 convolution of stride 2 and the max pooling; `none` for an input that is
        the map of a previous stage.
      shortcut: where the outputs change, `projection` is a 1x1 convolution with BatchNorm (LUCIR),
        `padding` takes every second pixel and adds channels of zeros (option A: iCaRL, PODNet).
      block_relu: which blocks end with ReLU: `all`; `within` for all but the last of each stage
        (PODNet's ResNet-18); `none` (PODNet's ResNet-32). `final_relu` decides for the last block.
      bottleneck: whether the blocks are bottlenecks.
      zero_blocks: whether the scale of the last BatchNorm of each block starts at 0, so that the
        block starts as its shortcut (PODNet's code).
      final_relu: whether the features are rectified; cosine heads need features without ReLU.
      dtype: of the computation; parameters, statistics and features are float32.
      platform: of the devices, as named by `default_platform`.
    """

    stages: Stages
    stem: str
    shortcut: str
    block_relu: str = "all"
    bottleneck: bool = False
    zero_blocks: bool = False
    final_relu: bool = True
    dtype: jnp.dtype = jnp.dtype(jnp.float32)
    platform: str = field(default_factory=default_platform)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        conv = partial(Conv, dtype=self.dtype, platform=self.platform)
        made = partial(BatchNorm, dtype=self.dtype, platform=self.platform)
        norm = lambda scale=1.0: partial(made(scale=scale), train=train)
        x, width = images, images.shape[-1]
        if self.stem != "none":
            width = self.stages[0][1]
            stem = conv(width, size=7, stride=2) if self.stem == "imagenet" else conv(width)
            x = nn.relu(norm()(stem(images)))
        if self.stem in ("cifar_pool", "imagenet"):
            x = nn.max_pool(x, (3, 3), (2, 2), padding=[(1, 1), (1, 1)])
        maps: list[jax.Array] = []
        for number, (blocks, wanted) in enumerate(self.stages):
            for block in range(blocks):
                stride = 1 if wanted == width else 2
                inputs, outputs = x.shape[-1], 4 * wanted if self.bottleneck else wanted
                if self.bottleneck:
                    y = nn.relu(norm()(conv(wanted, size=1)(x)))
                    y = nn.relu(norm()(conv(wanted, stride=stride)(y)))
                    last_conv = conv(outputs, size=1)
                else:
                    y = nn.relu(norm()(conv(wanted, stride=stride)(x)))
                    last_conv = conv(outputs)
                y = norm(0.0 if self.zero_blocks else 1.0)(last_conv(y))
                if inputs != outputs and self.shortcut == "projection":
                    x = norm()(conv(outputs, size=1, stride=stride)(x))
                elif inputs != outputs:
                    x = jnp.pad(x[:, ::stride, ::stride], [(0, 0)] * 3 + [(0, outputs - inputs)])
                x = x + y
                width = wanted
                ends = block == blocks - 1
                if ends:
                    x = with_offset(self, len(maps), x)
                    maps.append(x)
                between = {"all": True, "within": not ends, "none": False}[self.block_relu]
                last = ends and number == len(self.stages) - 1
                if self.final_relu if last else between:
                    x = nn.relu(x)
        return jnp.mean(x, axis=(1, 2), dtype=jnp.float32), tuple(maps)

    @nn.nowrap
    def split(self) -> tuple[nn.Module, nn.Module]:
        """Split it into all stages but the last, and the last; see `Trunk`."""
        first = self.clone(stages=self.stages[:-1])
        last = self.clone(stages=self.stages[-1:], stem="none")
        return Trunk(first, relu=self.block_relu == "all"), last


@NETWORKS.register("resnet8")
def resnet8(**fields: Any) -> ResNet:
    """Make a ResNet-8 for small images, with option A shortcuts."""
    return ResNet(((1, 16), (1, 32), (1, 64)), "cifar", "padding", **fields)


@NETWORKS.register("resnet32")
def resnet32(**fields: Any) -> ResNet:
    """Make LUCIR's ResNet-32 for CIFAR."""
    return ResNet(((5, 16), (5, 32), (5, 64)), "cifar", "projection", **fields)


@NETWORKS.register("resnet32_option_a")
def resnet32_option_a(**fields: Any) -> ResNet:
    """Make PyCIL's ResNet-32 for CIFAR, with option A shortcuts (He et al. 2016, section 4.2).

    PyCIL, and the survey made with it (Zhou et al., Deep Class-Incremental Learning), give figures
    of WA, BiC and iCaRL with this network. LUCIR's `resnet32` has projections instead.
    """
    return ResNet(((5, 16), (5, 32), (5, 64)), "cifar", "padding", **fields)


@NETWORKS.register("resnet32_podnet")
def resnet32_podnet(**fields: Any) -> ResNet:
    """Make PODNet's ResNet-32; its last block is a separate stage for the distillation."""
    stages = ((5, 16), (5, 32), (4, 64), (1, 64))
    return ResNet(stages, "cifar", "padding", block_relu="none", zero_blocks=True, **fields)


_RESNET18 = ((2, 64), (2, 128), (2, 256), (2, 512))


@NETWORKS.register("resnet18")
def resnet18(**fields: Any) -> ResNet:
    """Make the ResNet-18 of ImageNet, as LUCIR uses it."""
    return ResNet(_RESNET18, "imagenet", "projection", **fields)


@NETWORKS.register("resnet18_cifar")
def resnet18_cifar(**fields: Any) -> ResNet:
    """Make a ResNet-18 for images of 32 to 64 pixels, without the stem's two halvings."""
    return ResNet(_RESNET18, "cifar", "projection", **fields)


@NETWORKS.register("resnet18_podnet")
def resnet18_podnet(**fields: Any) -> ResNet:
    """Make the ResNet-18 for ImageNet of PODNet's published code.

    Its stem has a 3x3 convolution of stride 1, so its maps have twice the height and width of those
    of `resnet18`.
    """
    return ResNet(
        _RESNET18, "cifar_pool", "projection", block_relu="within", zero_blocks=True, **fields
    )


@NETWORKS.register("resnet50")
def resnet50(**fields: Any) -> ResNet:
    """Make the ResNet-50 of ImageNet, with the strides of torchvision."""
    stages = ((3, 64), (4, 128), (6, 256), (3, 512))
    return ResNet(stages, "imagenet", "projection", bottleneck=True, **fields)
