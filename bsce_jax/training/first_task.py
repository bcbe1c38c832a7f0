"""What may make the model of a first task a better start for later ones, with any method."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from bsce_jax import losses
from bsce_jax.methods import Stage, Step, Terms

WEIGHT, TEMPERATURE = 0.2, 2.0  # of the self-distillation
EPS = 1e-8


def boosted(stages: tuple[Stage, ...], train: ConfigDict) -> tuple[Stage, ...]:
    """Add what the config asks for to the first task: decorrelation, self-distillation.

    The stage of the self-distillation follows the training. It goes on from the trained model,
    which is its teacher too, with a new cosine schedule from the same learning rate.

    Args:
      stages: of the first task.
      train: `config.train`.
    """
    main, *others = stages
    if train.decorrelation:
        main = dataclasses.replace(main, terms=Decorrelated(main.terms, train.decorrelation))
    if not train.self_distillation_epochs:
        return (main, *others)
    again = dataclasses.replace(
        main,
        name="self-distillation",
        terms=SelfDistilled(main.terms),
        epochs=train.self_distillation_epochs,
        schedule="cosine",
        warmup=0,
        teacher="start",
    )
    return (main, again, *others)


@dataclasses.dataclass(frozen=True)
class Decorrelated:
    """Terms and the class-wise decorrelation of CwD (Shi et al. 2022), as in its code.

    Attributes:
      terms: the other terms.
      weight: of the decorrelation.
    """

    terms: Callable[[Step], Terms]
    weight: float

    def __call__(self, step: Step) -> Terms:
        """Return the terms of a batch."""
        width = step.student.features.shape[1] // step.network.branches
        features = step.student.features[:, :width]  # of the branch that exists
        spread = decorrelation(features, step.labels, step.weights)
        return {**self.terms(step), "decorrelation": self.weight * spread}


@dataclasses.dataclass(frozen=True)
class SelfDistilled:
    """Terms and the distillation from the teacher, over the classes seen (CCIL-SD).

    In the code of Mittal et al. 2021 the weight is 10, of the mean over all elements. With their 50
    classes that is 0.2 times the sum over the classes; here it is 0.2 with any number of classes.

    Attributes:
      terms: the other terms.
    """

    terms: Callable[[Step], Terms]

    def __call__(self, step: Step) -> Terms:
        """Return the terms of a batch."""
        divergence = losses.distillation(
            step.student.logits, step.teacher.logits, temperature=TEMPERATURE, where=step.task.seen
        )
        return {**self.terms(step), "self_distillation": WEIGHT * step.mean(divergence)}


def decorrelation(features: jax.Array, labels: jax.Array, weights: jax.Array) -> jax.Array:
    """Compute the class-wise decorrelation loss, as in the code of CwD.

    The features of each class are standardised. Its loss is the mean square of the off-diagonal
    elements of Z^T Z, where Z are the standardised features of its n samples, [n, D]. A class with
    one sample has none. The losses of the classes are added up and divided by the number of samples
    that have one.

    Args:
      features: [batch, D].
      labels: [batch].
      weights: [batch], 0 for a sample that does not count.

    Returns:
      A scalar, 0 if no class has two samples.
    """
    same = (labels[:, None] == labels[None]) & (weights[:, None] * weights[None] > 0)
    mates = same.astype(jnp.float32)  # [batch, batch], 1 for two samples of one class
    count = jnp.sum(mates, axis=1, keepdims=True)
    apart = features - mates @ features / jnp.maximum(count, 1.0)
    variance = mates @ jnp.square(apart) / jnp.maximum(count - 1.0, 1.0)
    z = jnp.where(count > 1, apart * jax.lax.rsqrt(EPS + variance), 0.0)
    # sum over classes of |Z^T Z|^2, which is |Z Z^T|^2, and of its diagonal
    whole = jnp.sum(mates * jnp.square(z @ z.T))
    diagonal = jnp.sum((mates @ jnp.square(z)) * jnp.square(z))
    width = features.shape[1]
    total = jnp.sum(count > 1)
    return (whole - diagonal) / (width * (width - 1)) / jnp.maximum(total, 1)
