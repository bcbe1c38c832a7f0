"""The classification losses by name: `config.loss`, orthogonal to `config.method`.

Each is a frozen dataclass of its hyper-parameters with two duties: the log-prior of a task, made
once on the host from the class counts, and the loss of a batch, traced into the compiled step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from bsce_jax import losses
from bsce_jax.errors import unknown
from bsce_jax.models import Outputs


@dataclasses.dataclass(frozen=True)
class ClassificationLoss:
    """A classification loss; subclasses say how counts and logits enter it.

    Attributes:
      balanced: whether it corrects for class imbalance, so that a balanced fine-tuning stage is
        off unless it is asked for.
      cosines: whether it is defined on cosines, so that it needs a cosine or LSC head.
      one_vs_rest: whether it judges each class by itself, so that another term may take over some.
      learned: whether the weight of the old classes is learned while training, see
        `MetaBalancedSoftmax`.
    """

    balanced: ClassVar[bool] = False
    cosines: ClassVar[bool] = False
    one_vs_rest: ClassVar[bool] = False
    learned: ClassVar[bool] = False

    def log_prior(self, counts: np.ndarray, old: np.ndarray, seen: np.ndarray) -> jax.Array:
        """Makes the [C] log-prior of a task.

        Args:
          counts: [C] training images of each class in this task's training set.
          old: [C] bool, classes of earlier tasks.
          seen: [C] bool, classes seen so far, this task's included.
        """
        return losses.class_log_prior(counts, tau=0.0, seen=seen)

    def __call__(
        self, outputs: Outputs, labels: jax.Array, log_prior: jax.Array, old: jax.Array
    ) -> jax.Array:
        """Returns the loss of each sample, [batch]."""
        return losses.softmax_cross_entropy(outputs.logits, labels, log_prior)


_LOSSES: dict[str, type[ClassificationLoss]] = {}
_Loss = TypeVar("_Loss", bound=type[ClassificationLoss])


def register_loss(name: str) -> Callable[[_Loss], _Loss]:
    """Makes a class known as `config.loss.name`; decorate it with `@register_loss(name)`."""

    def add(cls: _Loss) -> _Loss:
        _LOSSES[name] = cls
        return cls

    return add


def loss_class(name: str) -> type[ClassificationLoss]:
    """Returns the loss registered under a name.

    Raises:
      UserError: no loss has that name; the message lists the nearest.
    """
    if name not in _LOSSES:
        raise unknown("loss", name, _LOSSES)
    return _LOSSES[name]


def loss_names() -> tuple[str, ...]:
    """Returns the names of all losses."""
    return tuple(_LOSSES)


@register_loss("cross_entropy")
@dataclasses.dataclass(frozen=True)
class CrossEntropy(ClassificationLoss):
    """Softmax cross-entropy over the classes seen so far."""


@register_loss("balanced_softmax")
@dataclasses.dataclass(frozen=True)
class BalancedSoftmax(ClassificationLoss):
    """Balanced Softmax Cross-Entropy (Jodelet et al. 2021): CE(logits + tau log n, label).

    Attributes:
      tau: strength of the prior; 0 is cross-entropy, 1 the balanced softmax.
      old_prior: least count of an old class, relative to the mean count of the new ones. Without
        memory old classes have no images, and this relaxed prior decides how far they compete.
    """

    balanced: ClassVar[bool] = True
    tau: float = 1.0
    old_prior: float = 0.0

    def log_prior(self, counts: np.ndarray, old: np.ndarray, seen: np.ndarray) -> jax.Array:
        floor = self.old_prior * counts[seen & ~old].mean()
        counts = np.where(old, np.maximum(counts, floor), counts)
        return losses.class_log_prior(counts, tau=self.tau, seen=seen)


@register_loss("meta_balanced_softmax")
@dataclasses.dataclass(frozen=True)
class MetaBalancedSoftmax(BalancedSoftmax):
    """Balanced softmax whose weight of the old classes is learned (Jodelet et al. 2022).

    The prior of old classes becomes tau log n + w. Each step looks ahead: one SGD step of the head
    under that prior, then the plain cross-entropy on a class-balanced batch, whose derivative
    through the SGD step says where w should go (Ren et al. 2020, meta sampler). w starts at 0 in
    every task.

    Attributes:
      tau: strength of the prior.
      old_prior: least count of an old class, relative to the mean count of the new ones.
      per_class: one w a class instead of one for all old classes.
      learning_rate: of Adam on w.
    """

    learned: ClassVar[bool] = True
    per_class: bool = False
    learning_rate: float = 0.01

    def weights(self, num_classes: int) -> jax.Array:
        """Returns w at the start of a task: [] or [C] zeros."""
        return jnp.zeros((num_classes,) if self.per_class else ())


@register_loss("separated_softmax")
@dataclasses.dataclass(frozen=True)
class SeparatedSoftmax(ClassificationLoss):
    """SS-IL's separated softmax: new samples over new classes, exemplars over old ones."""

    def __call__(
        self, outputs: Outputs, labels: jax.Array, log_prior: jax.Array, old: jax.Array
    ) -> jax.Array:
        return losses.separated_softmax_cross_entropy(
            outputs.logits, labels, old, log_prior=log_prior
        )


@register_loss("binary_cross_entropy")
@dataclasses.dataclass(frozen=True)
class BinaryCrossEntropy(ClassificationLoss):
    """One-vs-rest sigmoid cross-entropy, summed over the seen classes (iCaRL, LwF-MC)."""

    one_vs_rest: ClassVar[bool] = True

    def __call__(
        self, outputs: Outputs, labels: jax.Array, log_prior: jax.Array, old: jax.Array
    ) -> jax.Array:
        return losses.binary_cross_entropy(outputs.logits, labels, jnp.isfinite(log_prior))


@register_loss("nca")
@dataclasses.dataclass(frozen=True)
class NCA(ClassificationLoss):
    """PODNet's NCA loss on the cosines of the LSC head.

    Attributes:
      margin: subtracted from the cosine of the true class.
      reference_quirks: what the published code computes, and the published figures come from,
        instead of the paper's equation 8. That one falls with the scale: with few classes a learned
        scale collapses to 0.
    """

    cosines: ClassVar[bool] = True
    margin: float = 0.6
    reference_quirks: bool = True

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


@register_loss("balanced_nca")
@dataclasses.dataclass(frozen=True)
class BalancedNCA(NCA):
    """NCA with tau log n added to the scaled cosines of every class.

    Attributes:
      margin, reference_quirks: as NCA's.
      tau, old_prior: as the balanced softmax's.
    """

    balanced: ClassVar[bool] = True
    tau: float = 1.0
    old_prior: float = 0.0

    log_prior = BalancedSoftmax.log_prior
