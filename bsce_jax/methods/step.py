"""A batch inside the compiled step, the argument of a method's terms."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import struct

from bsce_jax.methods.state import ModelState, Params, TaskContext
from bsce_jax.models import Classifier, Outputs, classify

if TYPE_CHECKING:
    from bsce_jax.methods.criterion import Criterion

Terms = dict[str, jax.Array]


@struct.dataclass
class Step:
    """One batch inside the compiled step.

    Attributes:
      student: outputs of the network in training.
      teacher_outputs: outputs of the stage's teacher (`Stage.teacher`); read as `teacher`.
      labels: [batch] int32, positions in the class order.
      weights: [batch] float32, 1 for a sample and 0 for padding.
      task: the task's arrays.
      params: the parameters in training, for penalties on them.
      extra: the method's own arrays.
      teacher_state: the teacher itself; read as `previous`.
      key: a random key for this step.
      criterion: the classification loss of `config.loss`.
      network: the network, for methods that classify further features.
      replayed: [batch] bool, the exemplars that `train.replay_batch_size` adds.
      partners: [batch] int32, in mixed images the classes with the smaller share, None without.
      share: [], in mixed images the share of the classes in `labels`, at least a half.
      turns: [batch] int32, how many quarter turns each image has got; None in a stage without them.
    """

    student: Outputs
    teacher_outputs: Outputs | None
    labels: jax.Array
    weights: jax.Array
    task: TaskContext
    params: Params
    extra: dict[str, Any]
    teacher_state: ModelState | None
    key: jax.Array
    criterion: Criterion = struct.field(pytree_node=False)
    network: Classifier = struct.field(pytree_node=False)
    replayed: jax.Array
    partners: jax.Array | None = None
    share: jax.Array | None = None
    turns: jax.Array | None = None

    @property
    def teacher(self) -> Outputs:
        """Outputs of the teacher, for methods with a teacher."""
        if self.teacher_outputs is None:
            raise ValueError("no teacher here: see `Method.teacher` and `Stage.teacher`")
        return self.teacher_outputs

    @property
    def previous(self) -> ModelState:
        """The stage's teacher (`Stage.teacher`), by default the model after the previous task."""
        if self.teacher_state is None:
            raise ValueError("no teacher here: see `Method.teacher` and `Stage.teacher`")
        return self.teacher_state

    def mean(self, values: jax.Array, where: jax.Array | None = None) -> jax.Array:
        """Average [batch] values over the samples (in `where`), without padding; 0 for none."""
        weights = self.weights if where is None else self.weights * where
        # selected, not multiplied: a masked sample may have an infinite loss
        total = jnp.sum(jnp.where(weights > 0, values * weights, 0.0))
        return total / jnp.maximum(jnp.sum(weights), 1.0)

    def classify(self, features: jax.Array) -> Outputs:
        """Apply the head in training to [batch, D] features."""
        return classify(self.network, {"params": self.params}, features)

    def classification(
        self,
        outputs: Outputs | None = None,
        among: jax.Array | None = None,
        where: jax.Array | None = None,
    ) -> jax.Array:
        """Average the classification loss over the batch; of mixed images, of both classes.

        Args:
          outputs: whose loss it is; None for the student's outputs.
          among: [C] bool, the classes that compete; None for all classes seen.
          where: [batch] bool, the samples averaged over; None for all.
        """
        outputs = self.student if outputs is None else outputs
        prior = self.task.log_prior
        if among is not None:
            prior = jnp.where(among, prior, -jnp.inf)
        criterion, old = self.criterion, self.task.old
        loss = self.of_both(lambda labels: criterion(outputs, labels, prior, old))
        return self.mean(loss, where)

    def of_both(self, loss: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """Compute a loss of labels, [batch] to [batch]; of mixed images, of both classes.

        Args:
          loss: of labels.

        Returns:
          [batch]; of mixed images the mean of both losses, weighted by the shares.
        """
        if self.partners is None or self.share is None:
            return loss(self.labels)
        return self.share * loss(self.labels) + (1 - self.share) * loss(self.partners)

    @property
    def is_old(self) -> jax.Array:
        """[batch] bool: the samples of old classes, that is the exemplars."""
        return self.task.old[self.labels]
