"""Balanced softmax with a learned weight of the old classes: one meta step before each step."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from bsce_jax import losses
from bsce_jax.fields import field
from bsce_jax.methods.criterion import CRITERIA, BalancedSoftmax, MetaStep
from bsce_jax.methods.state import Params
from bsce_jax.models import Outputs, classify


class OldWeight(NamedTuple):
    """The learned weight and its optimiser's state.

    Attributes:
      value: w, [] or [C], added to the log-prior of old classes.
      opt_state: of Adam.
    """

    value: jax.Array
    opt_state: optax.OptState


@CRITERIA.register("meta_balanced_softmax")
@dataclasses.dataclass(frozen=True)
class MetaBalancedSoftmax(BalancedSoftmax):
    """Balanced softmax whose weight of the old classes is learned (Jodelet et al. 2022).

    The prior of old classes becomes tau log n + w. Before each step, the head takes a trial SGD
    step under that prior. The plain cross-entropy of the result on a class-balanced batch is
    differentiated with respect to w, through the SGD step (Ren et al. 2020, meta sampler). w starts
    at 0 in every stage.
    """

    per_class: bool = field(False, "one w a class instead of one for all old classes")
    learning_rate: float = field(0.01, "of Adam for w", above=0)

    def init_state(self, num_classes: int) -> OldWeight:
        value = jnp.zeros((num_classes,) if self.per_class else ())
        return OldWeight(value, optax.adam(self.learning_rate).init(value))

    def learned_prior(self, log_prior: jax.Array, old: jax.Array, state: OldWeight) -> jax.Array:
        return jnp.where(old, log_prior + state.value, log_prior)

    def learn(self, state: OldWeight, meta: MetaStep) -> OldWeight:
        """Take one Adam step on w, against the gradient of the loss after the trial SGD step."""
        task, head = meta.task, meta.params["head"]

        def outputs(head: Params, features: jax.Array) -> Outputs:
            return classify(meta.network, {"params": {**meta.params, "head": head}}, features)

        def inner(head: Params, value: jax.Array) -> jax.Array:
            features, labels, weights = meta.batch
            prior = jnp.where(task.old, task.log_prior + value, task.log_prior)
            values = self(outputs(head, features), labels, prior, task.old)
            return jnp.sum(values * weights) / jnp.maximum(jnp.sum(weights), 1.0)

        def outer(value: jax.Array) -> jax.Array:
            gradients = task.only_trained_rows(jax.grad(inner)(head, value))
            moved = jax.tree.map(lambda p, g: p - meta.learning_rate * g, head, gradients)
            features, labels = meta.balanced
            plain = jnp.where(task.seen, 0.0, -jnp.inf)
            logits = outputs(moved, features).logits
            return losses.softmax_cross_entropy(logits, labels, plain).mean()

        gradient = jax.grad(outer)(state.value)
        updates, opt_state = optax.adam(self.learning_rate).update(gradient, state.opt_state)
        return OldWeight(state.value + updates, opt_state)
