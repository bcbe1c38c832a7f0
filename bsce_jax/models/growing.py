"""A network that gets a further branch in every task; the branches of earlier tasks are frozen."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bsce_jax.models.channels import IMPORTANCE
from bsce_jax.models.classifier import Classifier, Outputs, size

# what a network may have beside backbone and head; the variables are set after the first task
AUXILIARY = "params/auxiliary/"
LATER_VARIABLES = (
    *("batch_stats/frozen/", "batch_stats/count"),
    f"batch_stats/{IMPORTANCE}",
)


class GrowingClassifier(Classifier):
    """A classifier on the concatenated features of several branches (DER, MEMO, FOSTER).

    The branch in training is `backbone`. The frozen ones are copies of it, stacked along a leading
    axis of `slots`, in the collection `batch_stats`: they are no parameters. The first `count`
    slots are in use. The others are not computed, so that a step costs what its branches cost, and
    nothing changes its shape from task to task.

    The features [batch, (slots + 1) * D] are those of the branches in the order of the tasks; they
    are zero for branches to come. The maps are those of the branch in training.

    The auxiliary head gets the features of the branch in training alone.

    Attributes:
      slots: most frozen branches.
      trunk: images and `train` to the input of all branches, trained too; None for the images.
      compressed: whether each task ends with a single branch.
    """

    slots: int = 1
    trunk: nn.Module | None = None
    compressed: bool = False

    @property
    def branches(self) -> int:
        """How many branches the features are of; those to come are included."""
        return self.slots + 1

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> Outputs:
        """Apply trunk, branches and heads to [batch, height, width, channels] images."""
        inputs = images if self.trunk is None else self.trunk(images, train)
        features, maps = self.backbone(inputs, train)
        branch = self.backbone.clone(parent=None, name=None)
        empty = lambda: _empty(branch, inputs, self.slots)
        frozen: Any = self.variable("batch_stats", "frozen", empty)
        count: Any = self.variable("batch_stats", "count", jnp.zeros, (), jnp.int32)

        def past(number: jax.Array, variables: Any) -> tuple[jax.Array, jax.Array]:
            found = jax.lax.cond(
                number < count.value,
                lambda: branch.apply(variables, inputs, train=False)[0],
                lambda: jnp.zeros_like(features),
            )
            return number + 1, found

        _, earlier = jax.lax.scan(past, jnp.zeros((), jnp.int32), frozen.value)
        every = jnp.concatenate([earlier, jnp.zeros_like(features)[None]])
        every = jax.lax.dynamic_update_index_in_dim(every, features, count.value, axis=0)
        joined = jnp.moveaxis(every, 0, 1).reshape(len(features), -1)
        outputs = Outputs(joined, maps, *self.head(joined))
        assert self.auxiliary is not None
        return dataclasses.replace(outputs, auxiliary=self.auxiliary(features).logits)

    def classify(self, features: jax.Array) -> Outputs:
        """Apply the head alone to the features of all branches, [batch, (slots + 1) * D]."""
        return Outputs(features, (), *self.head(features))

    @nn.nowrap
    def parameters_in_use(self, params: Any, task: int, seen: int) -> int:
        """Count the parameters of the trunk, of all branches that exist, and of the head."""
        branches = 1 if self.compressed else task + 1
        weight, bias = params["head"]["weight"], params["head"]["bias"]
        columns = weight.shape[1] // self.branches * branches
        head = size({"bias": bias}, rows=seen) + seen * columns
        return size(params.get("trunk", {})) + branches * size(params["backbone"]) + head


def freeze_branch(params: Any, batch_stats: Any) -> Any:
    """Put a copy of the branch in training into the next slot.

    Args:
      params: of a GrowingClassifier.
      batch_stats: its other variables.

    Returns:
      The new `batch_stats`.
    """
    branch = {"params": params["backbone"]}
    if "backbone" in batch_stats:  # not without BatchNorm
        branch["batch_stats"] = batch_stats["backbone"]
    count = batch_stats["count"]
    put = lambda slots, value: slots.at[count].set(value)
    frozen = jax.tree.map(put, batch_stats["frozen"], branch)
    return {**batch_stats, "frozen": frozen, "count": count + 1}


def _empty(branch: nn.Module, inputs: jax.Array, slots: int) -> Any:
    """Return the variables of frozen branches that do not exist yet: zeros."""
    shapes = jax.eval_shape(lambda x: branch.init(jax.random.key(0), x, train=False), inputs)
    return jax.tree.map(lambda leaf: jnp.zeros((slots, *leaf.shape), leaf.dtype), dict(shapes))
