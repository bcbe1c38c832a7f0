"""The model, and the arrays by which the compiled step gets a task.

A task differs from others in values and not in shapes, so it compiles nothing anew.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

Params = Any  # a pytree of arrays, as flax calls it


@struct.dataclass
class ModelState:
    """The model: all that is learned and passed from one task to the next.

    Attributes:
      params: the network's parameters, `{"backbone": ..., "head": ...}`, float32.
      batch_stats: the network's variables that are no parameters: BatchNorm's running statistics,
        and the frozen branches of a growing network.
      extra: the method's own arrays (bias correction, Fisher information, ...).
    """

    params: Params
    batch_stats: Params
    extra: dict[str, Any]

    @property
    def variables(self) -> dict[str, Params]:
        """The variables for the network's `apply`."""
        return {"params": self.params, "batch_stats": self.batch_stats}


@struct.dataclass
class TaskContext:
    """A stage of a task for the compiled step: arrays over all `C` classes of the scenario.

    Attributes:
      old: [C] bool, classes of earlier tasks.
      new: [C] bool, classes of this task.
      counts: [C] float32, samples of each class in an epoch of the stage.
      log_prior: [C] float32, added to the logits by the classification loss; -inf: unseen.
      task_of_class: [C] int32, the task that brings each class.
      train_rows: [C] float32, 1 for the class vectors of the head that are trained, 0 for others.
    """

    old: jax.Array
    new: jax.Array
    counts: jax.Array
    log_prior: jax.Array
    task_of_class: jax.Array
    train_rows: jax.Array

    @property
    def seen(self) -> jax.Array:
        """[C] bool: the classes of this and of all earlier tasks."""
        return self.old | self.new

    @property
    def old_fraction(self) -> jax.Array:
        """[] float32: rho, old classes / all classes seen."""
        return jnp.sum(self.old) / jnp.sum(self.seen)

    @property
    def old_per_new(self) -> jax.Array:
        """[] float32: old classes / new classes."""
        return jnp.sum(self.old) / jnp.sum(self.new)

    def only_trained_rows(self, head: Params) -> Params:
        """Zero a head's gradients or updates for the class vectors that are not trained.

        The head's scalars have no class axis and are unchanged.
        """

        def rows(leaf: jax.Array) -> jax.Array:
            if leaf.ndim == 0:
                return leaf
            return leaf * self.train_rows.reshape(-1, *[1] * (leaf.ndim - 1))

        return jax.tree.map(rows, head)
