"""The interface between a method and the run.

A method is a frozen dataclass. Its fields are its hyper-parameters (they become `config.method`),
its class attributes say what the run must provide, and its hooks are called at fixed moments:

    network, grow     before a task: change the network
    begin_task        before training: imprint new class vectors, reinitialise
    stages            list the stages of the task: one, unless the method has more
    terms             inside the compiled step: the loss terms that are added up
    end_training      after training: correct a bias, keep statistics
    predict           convert logits and features to class scores

No method owns a training loop. What differs between tasks enters the compiled step as arrays
(`TaskContext`, `ModelState.extra`), so a task with the same network and batch shapes compiles
nothing anew.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import optax

from bsce_jax.methods.stage import Stage
from bsce_jax.methods.state import ModelState, Params
from bsce_jax.methods.step import Step, Terms
from bsce_jax.methods.task import Probe, TaskInfo
from bsce_jax.models import Classifier
from bsce_jax.registry import Registry


@dataclasses.dataclass(frozen=True)
class Method:
    """A class-incremental method; subclass, set what differs, and register it.

    Attributes:
      loss: the classification loss it was published with, the default of `config.loss`.
      memory: whether it keeps exemplars; if not, `config.memory.size` is 0 by default.
      teacher: whether its terms use a teacher, the model after the previous task, in all tasks but
        the first.
      restarts: whether `begin_task` makes a new model in every task, which then is trained as in
        the first one.
      replay_batch_size: the default of `config.train.replay_batch_size`.
    """

    loss: ClassVar[str] = "cross_entropy"
    memory: ClassVar[bool] = True
    teacher: ClassVar[bool] = False
    restarts: ClassVar[bool] = False
    replay_batch_size: ClassVar[int] = 0

    @property
    def head(self) -> str:
        """Name of its head in `models.HEADS`."""
        return "linear"

    def network(self, base: Classifier, task: int, tasks: int) -> Classifier:
        """Choose the network of a task.

        Args:
          base: the network with the config's backbone and the method's head.
          task: number of the task.
          tasks: how many tasks the scenario has.

        Returns:
          The network; if it equals the previous task's, nothing is compiled anew.
        """
        return base

    def grow(self, model: ModelState, task: TaskInfo, probe: Probe) -> ModelState:
        """Convert a model to the network of a task, if it differs from the previous task's.

        Args:
          model: of the previous task's network.
          task: the task about to begin.
          probe: of the new network; its `initial` has fresh parameters.
        """
        return probe.initial

    def stages(self, main: Stage, task: int) -> tuple[Stage, ...]:
        """List the stages of a task, at least one; those on the memory come last.

        Before the first stage on the memory, or after the last stage if there is none on the
        memory, `end_training` is called and the exemplars of the new classes are chosen.

        Args:
          main: the training that `config.train` describes, with the method's terms and teacher. In
            the first task there is no teacher, and the terms of a method with a teacher are the
            classification loss alone.
          task: number of the task.
        """
        return (main,)

    def terms(self, step: Step) -> Terms:
        """Return the named loss terms of a batch, weighted; the step minimises their sum.

        It is traced. The names `loss`, `accuracy` and `scale` are reserved for the log.
        """
        return self.classification(step)

    def classification(self, step: Step) -> Terms:
        """Return the classification loss alone."""
        return {"classification": step.classification()}

    def gradient_transform(self) -> optax.GradientTransformation:
        """Return the transform of the gradients before weight decay and momentum.

        One with extra arguments can get the `key` of the step, the `epoch` within the stage and the
        number of `images` in the batch.
        """
        return optax.identity()

    def init_extra(self, params: Params, num_classes: int) -> dict[str, Any]:
        """Return the initial values of the method's own arrays."""
        return {}

    def begin_task(self, model: ModelState, task: TaskInfo, probe: Probe) -> ModelState:
        """Prepare the model before the training of a task."""
        return model

    def end_training(self, model: ModelState, task: TaskInfo, probe: Probe) -> ModelState:
        """Correct the model after the training of a task, before exemplars are chosen."""
        return model

    def predict(self, logits: jax.Array, features: jax.Array, extra: dict[str, Any]) -> jax.Array:
        """Return [n, C] class scores, from [n, C] logits and [n, D] features.

        Logits and scores are -inf where unseen. The highest score is the prediction, and their
        softmax are the probabilities.
        """
        return logits


METHODS: Registry[type[Method]] = Registry("method")
