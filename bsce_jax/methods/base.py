"""The seam between a method and the run: what a method is given, and what it may change.

A method is a frozen dataclass. Its fields are its hyper-parameters (they become `config.method`),
its class attributes say what the run must provide, and its hooks are called at fixed moments:

    begin_task        before training: imprint new class vectors, start afresh
    terms             inside the compiled step: the loss terms that are added up
    end_training      after training: correct a bias, keep statistics
    predict           how logits become class scores

No method owns a training loop, and what a method learns about a task enters the compiled step
as arrays (`TaskContext`, `ModelState.extra`), so a new task never compiles anything anew.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from bsce_jax.methods.classification import ClassificationLoss
from bsce_jax.models import Classifier, Outputs, classify

Params = Any  # a pytree of arrays, as flax calls it


@struct.dataclass
class ModelState:
    """What is learned and goes from one task to the next.

    Attributes:
      params: the network's parameters, `{"backbone": ..., "head": ...}`, float32.
      batch_stats: BatchNorm's running statistics, float32.
      extra: arrays of the method's or the loss's own (bias correction, Fisher information, ...),
        of shapes that never depend on the task.
    """

    params: Params
    batch_stats: Params
    extra: dict[str, Any]

    @property
    def variables(self) -> dict[str, Params]:
        """The network's part, as its `apply` takes it."""
        return {"params": self.params, "batch_stats": self.batch_stats}


@struct.dataclass
class TaskContext:
    """What the compiled step knows of the task: arrays over all `C` classes of the scenario.

    Attributes:
      old: [C] bool, classes of earlier tasks.
      new: [C] bool, classes of this task.
      log_prior: [C] float32, what the classification loss adds to the logits; -inf: unseen.
      task_of_class: [C] int32, the task that brings each class.
      train_backbone: [] float32, 1 to train the whole network, 0 for the head alone.
      train_rows: [C] float32, 1 for the class vectors of the head that are trained.
    """

    old: jax.Array
    new: jax.Array
    log_prior: jax.Array
    task_of_class: jax.Array
    train_backbone: jax.Array
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
        """Zeroes a head's gradients or updates for the class vectors that are not trained.

        The head's scalars have no class axis and always are.
        """

        def rows(leaf: jax.Array) -> jax.Array:
            if leaf.ndim == 0:
                return leaf
            return leaf * self.train_rows.reshape(-1, *[1] * (leaf.ndim - 1))

        return jax.tree.map(rows, head)


@struct.dataclass
class Step:
    """One batch inside the compiled step, as a method sees it.

    Attributes:
      student: outputs of the network in training.
      teacher_outputs: outputs of the teacher, the network as the previous task left it; read them
        as `teacher`.
      labels: [batch] int32, positions in the class order.
      weights: [batch] float32, 1 for a sample and 0 for padding.
      task: the task's arrays.
      params: the parameters in training (for penalties on the weights).
      extra: the method's own arrays.
      teacher_state: the teacher itself; read it as `previous`.
      key: a random key of this step's own.
      loss: the classification loss of `config.loss`.
      model: the network, for methods that classify features of their own making.
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
    loss: ClassificationLoss = struct.field(pytree_node=False)
    model: Classifier = struct.field(pytree_node=False)

    @property
    def teacher(self) -> Outputs:
        """Outputs of the network as the previous task left it, for methods with a teacher."""
        if self.teacher_outputs is None:
            raise ValueError("no teacher here: set `teacher = True` on the method")
        return self.teacher_outputs

    @property
    def previous(self) -> ModelState:
        """The network as the previous task left it, for methods with a teacher."""
        if self.teacher_state is None:
            raise ValueError("no teacher here: set `teacher = True` on the method")
        return self.teacher_state

    def mean(self, values: jax.Array, where: jax.Array | None = None) -> jax.Array:
        """Averages [batch] values over the samples (of `where`), padding left out; 0 for none."""
        weights = self.weights if where is None else self.weights * where
        # selected, not multiplied: a masked sample may have an infinite loss
        total = jnp.sum(jnp.where(weights > 0, values * weights, 0.0))
        return total / jnp.maximum(jnp.sum(weights), 1.0)

    def classify(self, features: jax.Array) -> Outputs:
        """Applies the head in training to [batch, D] features of the method's own making."""
        return classify(self.model, {"params": self.params}, features)

    def classification(
        self, outputs: Outputs | None = None, among: jax.Array | None = None
    ) -> jax.Array:
        """Averages the classification loss over the batch.

        Args:
          outputs: what is classified, the student's outputs unless told.
          among: [C] bool, the classes that compete, all seen unless told.
        """
        outputs = self.student if outputs is None else outputs
        prior = self.task.log_prior
        if among is not None:
            prior = jnp.where(among, prior, -jnp.inf)
        return self.mean(self.loss(outputs, self.labels, prior, self.task.old))

    @property
    def is_old(self) -> jax.Array:
        """[batch] bool: the samples of old classes, that is the exemplars."""
        return self.task.old[self.labels]


@dataclasses.dataclass(frozen=True)
class TaskInfo:
    """What the hooks outside the compiled step know of the task.

    Attributes:
      index: number of the task, from 0.
      old: how many classes were seen before; they are positions 0 to `old - 1`.
      seen: how many classes are seen with this task's.
      seed: of the run; hooks that draw at random derive their generator from it and `index`.
      labels: [n] int32, position in the class order of every training record, -1 for none.
      train: indices of the records trained on (after any held-out split).
      validation: indices of the held-out records, empty unless `Method.holdout`.
    """

    index: int
    old: int
    seen: int
    seed: int
    labels: np.ndarray
    train: np.ndarray
    validation: np.ndarray

    @property
    def new(self) -> range:
        """Positions of the classes that this task brings."""
        return range(self.old, self.seen)

    def records(self, position: int) -> np.ndarray:
        """Returns the indices of the trained records of one class."""
        return self.train[self.labels[self.train] == position]


class Probe(Protocol):
    """How hooks look at data through a model: batched, jitted, un-augmented, eval mode.

    Attributes:
      network: the network.
      initial: the state that the run began with.
    """

    network: Classifier
    initial: ModelState

    def images(self, indices: np.ndarray) -> jax.Array:
        """Returns [n, height, width, channels] normalised float32 images: ask for few."""

    def features(
        self, model: ModelState, indices: np.ndarray, mirrored: bool = False
    ) -> np.ndarray:
        """Returns [n, D] float32 features of training records (mirrored left-right if told)."""

    def logits(self, model: ModelState, indices: np.ndarray) -> np.ndarray:
        """Returns [n, C] float32 logits of training records."""


@dataclasses.dataclass(frozen=True)
class Finetuning:
    """A second training stage on the exemplars of all classes seen, which are balanced.

    Attributes:
      epochs: over the exemplars.
      learning_rate: at its start; the schedule is the one of `config.train`.
      head_only: whether the backbone stays as it is.
    """

    epochs: int
    learning_rate: float
    head_only: bool


@dataclasses.dataclass(frozen=True)
class Method:
    """A class-incremental method; subclass, set what differs, and `register` it.

    Attributes:
      head: the head it is defined for: `linear`, `cosine` or `lsc`.
      loss: the classification loss it was published with, used unless `config.loss` names another.
      memory: whether it keeps exemplars (`config.memory.size` is 0 by default where not).
      teacher: whether it looks at the previous model (in every task but the first).
      all_data: whether it may train on all data of old classes (upper bound only).
      freeze_old_rows: whether the head's old class vectors stay as they are.
      freeze_backbone: whether only the head is trained after the first task.
      replay_batch_size: places for exemplars alone in every batch, unless the config says
        otherwise; 0: exemplars and new images are drawn together.
    """

    head: ClassVar[str] = "linear"
    loss: ClassVar[str] = "cross_entropy"
    memory: ClassVar[bool] = True
    teacher: ClassVar[bool] = False
    all_data: ClassVar[bool] = False
    freeze_old_rows: ClassVar[bool] = False
    freeze_backbone: ClassVar[bool] = False
    replay_batch_size: ClassVar[int] = 0

    @property
    def holdout(self) -> float:
        """Fraction of the exemplars held out from training, for `end_training` to use."""
        return 0.0

    @property
    def finetuning(self) -> Finetuning | None:
        """The balanced stage after the training of every task but the first, None for none."""
        return None

    def terms(self, step: Step) -> dict[str, jax.Array]:
        """Returns the named loss terms of a batch, weighted; the step minimises their sum.

        Called at trace time. In the first task a method with a teacher has none yet, and is not
        asked: the classification loss alone is minimised.
        """
        return {"classification": step.classification()}

    def gradient_transform(self) -> optax.GradientTransformation:
        """Returns what is done to the gradients before weight decay and momentum."""
        return optax.identity()

    def init_extra(self, params: Params, num_classes: int) -> dict[str, Any]:
        """Returns the method's own arrays as they are before the first task."""
        return {}

    def begin_task(self, model: ModelState, task: TaskInfo, probe: Probe) -> ModelState:
        """Prepares the model for a task, before its training."""
        return model

    def end_training(self, model: ModelState, task: TaskInfo, probe: Probe) -> ModelState:
        """Corrects the model after the training of a task, before exemplars are chosen."""
        return model

    def predict(self, logits: jax.Array, extra: dict[str, Any]) -> jax.Array:
        """Returns the [n, C] class scores to rank, from [n, C] logits, -inf where unseen."""
        return logits
