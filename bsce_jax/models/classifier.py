"""A classifier: a backbone that makes features and a head that scores classes."""

import flax.linen as nn
import jax
from flax import struct
from flax.typing import VariableDict


@struct.dataclass
class Outputs:
    """What a network says of a batch; everything but the maps is float32.

    Attributes:
      features: [batch, D], what the head saw.
      maps: one [batch, height, width, channels] array a stage, before the stage's last ReLU.
      scores: [batch, C], class scores before the learned scale: cosines for a cosine or LSC head.
      logits: [batch, C], `scale * scores`; W f + b for a linear head.
      scale: [], the learned scale; 1 for a linear head.
    """

    features: jax.Array
    maps: tuple[jax.Array, ...]
    scores: jax.Array
    logits: jax.Array
    scale: jax.Array


class Classifier(nn.Module):
    """Composes a backbone and a head; their parameters lie under these two names.

    Attributes:
      backbone: images and `train` to features [batch, D] and maps.
      head: features to scores, logits and scale.
    """

    backbone: nn.Module
    head: nn.Module

    def __call__(self, images: jax.Array, train: bool) -> Outputs:
        """Looks at [batch, height, width, channels] images, in training or in eval mode."""
        features, maps = self.backbone(images, train)
        return Outputs(features, maps, *self.head(features))

    def classify(self, features: jax.Array) -> Outputs:
        """Applies the head alone to [batch, D] features; there are no maps."""
        return Outputs(features, (), *self.head(features))


def evaluate(network: Classifier, variables: VariableDict, images: jax.Array) -> Outputs:
    """Looks at [batch, height, width, channels] images in eval mode.

    Args:
      network: the network.
      variables: `{"params": ..., "batch_stats": ...}`.
      images: normalised float32 images.
    """
    outputs = network.apply(variables, images, train=False)
    assert isinstance(outputs, Outputs)  # apply is typed for all modules alike
    return outputs


def classify(network: Classifier, variables: VariableDict, features: jax.Array) -> Outputs:
    """Applies the head alone to [batch, D] features."""
    outputs = network.apply(variables, features, method="classify")
    assert isinstance(outputs, Outputs)
    return outputs
