"""A classifier: a backbone that makes features and a head that scores classes."""

import dataclasses
import math

import flax.linen as nn
import jax
from flax import struct
from flax.typing import VariableDict


@struct.dataclass
class Outputs:
    """The outputs of a network for a batch; all but the maps are float32.

    Attributes:
      features: [batch, D], the input of the head.
      maps: one [batch, height, width, channels] array a stage, before the stage's last ReLU.
      scores: [batch, C], class scores before the learned scale: cosines for a cosine head, means
        of a class's similarities for an LSC head.
      logits: [batch, C], `scale * scores`; W f + b for a linear head.
      scale: [], the learned scale; 1 for a linear head.
      auxiliary: [batch, K], the logits of an auxiliary head, None without one.
    """

    features: jax.Array
    maps: tuple[jax.Array, ...]
    scores: jax.Array
    logits: jax.Array
    scale: jax.Array
    auxiliary: jax.Array | None = None


class Classifier(nn.Module):
    """A backbone and a head; the parameters are under the names of the attributes.

    Attributes:
      backbone: images and `train` to features [batch, D] and maps.
      head: features to scores, logits and scale.
      auxiliary: a further head for `Outputs.auxiliary`, which predictions do without.
    """

    backbone: nn.Module
    head: nn.Module
    auxiliary: nn.Module | None = None

    def __call__(self, images: jax.Array, train: bool) -> Outputs:
        """Apply backbone and head to [batch, height, width, channels] images."""
        features, maps = self.backbone(images, train)
        return dataclasses.replace(self.classify(features), maps=maps)

    def classify(self, features: jax.Array) -> Outputs:
        """Apply the heads alone to [batch, D] features; there are no maps."""
        outputs = Outputs(features, (), *self.head(features))
        if self.auxiliary is None:
            return outputs
        return dataclasses.replace(outputs, auxiliary=self.auxiliary(features).logits)

    @property
    def branches(self) -> int:
        """How many branches the features are of, the first of which exists in the first task."""
        return 1

    @nn.nowrap
    def parameters_in_use(self, params: VariableDict, task: int, seen: int) -> int:
        """Count the parameters that a prediction after a task needs.

        Args:
          params: the parameters, or their shapes.
          task: number of the task.
          seen: how many classes are seen; the head's rows of later classes do not count.
        """
        return size(params["backbone"]) + size(params["head"], rows=seen)


def size(tree: VariableDict, rows: int | None = None) -> int:
    """Count the numbers in arrays; with `rows`, in that many rows of those that are no scalars."""
    shapes = [leaf.shape for leaf in jax.tree.leaves(tree)]
    if rows is not None:
        shapes = [(rows, *shape[1:]) if shape else shape for shape in shapes]
    return sum(map(math.prod, shapes))


def infer(network: Classifier, variables: VariableDict, images: jax.Array) -> Outputs:
    """Compute the outputs of a network in inference mode.

    Args:
      network: the network.
      variables: `{"params": ..., "batch_stats": ...}`.
      images: [batch, height, width, channels] float32, normalised.
    """
    outputs = network.apply(variables, images, train=False)
    assert isinstance(outputs, Outputs)  # flax types the result of apply as Any
    return outputs


def classify(network: Classifier, variables: VariableDict, features: jax.Array) -> Outputs:
    """Apply the head alone to [batch, D] features."""
    outputs = network.apply(variables, features, method="classify")
    assert isinstance(outputs, Outputs)
    return outputs
