"""The classification losses by name: `config.loss`, orthogonal to `config.method`.

Each is a frozen dataclass of its hyper-parameters. It computes the log-prior of a stage, on the
host from the class counts, and the loss of a batch, inside the compiled step. It may also have a
state that is learned during training.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bsce_jax import losses
from bsce_jax.fields import field
from bsce_jax.methods.state import Params, TaskContext
from bsce_jax.models import Classifier, Outputs
from bsce_jax.registry import Registry


class MetaStep(NamedTuple):
    """The arguments of `Criterion.learn`: the state and the batches before a training step.

    Attributes:
      network: of `params`.
      params: before the step.
      task: with the prior of the class counts.
      batch: features [batch, D], labels [batch] and weights [batch] of the training batch.
      balanced: features [batch, D] and labels [batch] of a class-balanced batch.
      learning_rate: of the training step.
    """

    network: Classifier
    params: Params
    task: TaskContext
    batch: tuple[jax.Array, jax.Array, jax.Array]
    balanced: tuple[jax.Array, jax.Array]
    learning_rate: jax.Array


@dataclasses.dataclass(frozen=True)
class Criterion:
    """A classification loss; this one is cross-entropy over the classes seen.

    Attributes:
      cosines: whether it is defined on cosines, and so needs a cosine or LSC head.
      one_vs_rest: whether it is a sum over the classes, so that another term may replace some of
        them.
    """

    cosines: ClassVar[bool] = False
    one_vs_rest: ClassVar[bool] = False

    @property
    def balanced(self) -> bool:
        """Whether it corrects for class imbalance.

        A balanced fine-tuning stage is then left out, unless `config.train.finetuning` is `always`.
        """
        return False

    def log_prior(self, counts: np.ndarray, old: np.ndarray, seen: np.ndarray) -> jax.Array:
        """Compute the [C] log-prior of a stage.

        Args:
          counts: [C] images of each class in an epoch of the stage.
          old: [C] bool, classes of earlier tasks.
          seen: [C] bool, classes seen so far, this task's included.
        """
        return losses.class_log_prior(counts, tau=0.0, seen=seen)

    def __call__(
        self, outputs: Outputs, labels: jax.Array, log_prior: jax.Array, old: jax.Array
    ) -> jax.Array:
        """Return the loss of each sample, [batch]."""
        return losses.softmax_cross_entropy(outputs.logits, labels, log_prior)

    def init_state(self, num_classes: int) -> Any:
        """Return the learned state at the start of a stage, a pytree; None if nothing is learned.

        A criterion with a state gets class-balanced batches, and must define `learn` and
        `learned_prior` too.
        """
        return None

    @property
    def learns(self) -> bool:
        """Whether it has a learned state."""
        return self.init_state(1) is not None

    def learn(self, state: Any, meta: MetaStep) -> Any:
        """Return the state after a meta step, inside the compiled step."""
        raise TypeError(f"{type(self).__name__} has an init_state: define learn too")

    def learned_prior(self, log_prior: jax.Array, old: jax.Array, state: Any) -> jax.Array:
        """Return the [C] log-prior corrected by the state, inside the compiled step."""
        raise TypeError(f"{type(self).__name__} has an init_state: define learned_prior too")


PRIORS = ("class", "task")
CRITERIA: Registry[type[Criterion]] = Registry("loss")


@CRITERIA.register("cross_entropy")
@dataclasses.dataclass(frozen=True)
class CrossEntropy(Criterion):
    """Softmax cross-entropy over the classes seen so far."""


@CRITERIA.register("balanced_softmax")
@dataclasses.dataclass(frozen=True)
class BalancedSoftmax(Criterion):
    """Balanced Softmax Cross-Entropy (Jodelet et al. 2021): CE(logits + tau log n, label).

    With tau = 0 it is cross-entropy, and what a method itself does against the imbalance is done.
    Without memory old classes have no images, and get a prior by `old_prior` alone.

    It optimises the mean accuracy of the classes: where the classes of a task have unequal numbers
    of images, it corrects for that too. With the prior `task` it corrects only for the imbalance
    of old and new classes: each counts as the mean of the old or of the new classes. That fits test
    sets whose classes are as unequal as the training images.
    """

    tau: float = field(1.0, "strength of the prior", least=0.0)
    prior: str = field(
        "class",
        "what is counted, each class or the mean of the old and of the new ones",
        choices=PRIORS,
    )
    old_prior: float = field(
        0.0,
        "least count of an old class, relative to the mean count of the new ones",
        least=0.0,
        most=1e6,
    )

    @property
    def balanced(self) -> bool:
        return self.tau > 0 or self.learns

    def log_prior(self, counts: np.ndarray, old: np.ndarray, seen: np.ndarray) -> jax.Array:
        new = seen & ~old
        if self.prior == "task":
            counts = np.array(counts, float)
            for part in (old, new):
                if part.any():
                    counts[part] = counts[part].mean()
        floor = self.old_prior * counts[new].mean()
        counts = np.where(old, np.maximum(counts, floor), counts)
        return losses.class_log_prior(counts, tau=self.tau, seen=seen)


@CRITERIA.register("separated_softmax")
@dataclasses.dataclass(frozen=True)
class SeparatedSoftmax(Criterion):
    """SS-IL's separated softmax: new samples over new classes, exemplars over old ones."""

    def __call__(
        self, outputs: Outputs, labels: jax.Array, log_prior: jax.Array, old: jax.Array
    ) -> jax.Array:
        return losses.separated_softmax_cross_entropy(
            outputs.logits, labels, old, log_prior=log_prior
        )


@CRITERIA.register("binary_cross_entropy")
@dataclasses.dataclass(frozen=True)
class BinaryCrossEntropy(Criterion):
    """One-vs-rest sigmoid cross-entropy, summed over the seen classes (iCaRL, LwF-MC)."""

    one_vs_rest: ClassVar[bool] = True

    def __call__(
        self, outputs: Outputs, labels: jax.Array, log_prior: jax.Array, old: jax.Array
    ) -> jax.Array:
        return losses.binary_cross_entropy(outputs.logits, labels, jnp.isfinite(log_prior))


@CRITERIA.register("nca")
@dataclasses.dataclass(frozen=True)
class NCA(Criterion):
    """PODNet's NCA loss on the cosines of the LSC head.

    The published figures come from the published code (`reference_quirks`). The paper's equation 8
    decreases with the scale: with few classes a learned scale collapses to 0.
    """

    cosines: ClassVar[bool] = True
    margin: float = field(0.6, "subtracted from the cosine of the true class")
    reference_quirks: bool = field(
        True, "compute what the published code does, not the paper's equation 8"
    )

    def __call__(
        self, outputs: Outputs, labels: jax.Array, log_prior: jax.Array, old: jax.Array
    ) -> jax.Array:
        return losses.nca(
            outputs.scores,
            labels,
            scale=outputs.scale,
            margin=self.margin,
            log_prior=log_prior,
            hinge=True,
            reference_quirks=self.reference_quirks,
        )


@CRITERIA.register("balanced_nca")
@dataclasses.dataclass(frozen=True)
class BalancedNCA(NCA, BalancedSoftmax):
    """NCA with tau log n added to the scaled cosines of every class."""
