"""Learning the weight of the old classes: one look ahead through an SGD step of the head."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from bsce_jax import losses
from bsce_jax.methods.base import Params, TaskContext
from bsce_jax.methods.classification import ClassificationLoss, MetaBalancedSoftmax
from bsce_jax.models import Classifier, Outputs, classify


class OldWeight(NamedTuple):
    """The learned weight and its optimiser's state.

    Attributes:
      value: w, [] or [C], added to the log-prior of old classes.
      opt_state: of Adam.
    """

    value: jax.Array
    opt_state: optax.OptState


def initial_weight(loss: ClassificationLoss, num_classes: int) -> OldWeight | None:
    """Starts the weight of a task; None for a loss that learns none."""
    if not isinstance(loss, MetaBalancedSoftmax):
        return None
    value = loss.weights(num_classes)
    return OldWeight(value, optax.adam(loss.learning_rate).init(value))


def weighted(task: TaskContext, value: jax.Array) -> TaskContext:
    """Adds w to the log-prior of the old classes."""
    prior = jnp.where(task.old, task.log_prior + value, task.log_prior)
    return dataclasses.replace(task, log_prior=prior)


def learn_weight(
    loss: MetaBalancedSoftmax,
    network: Classifier,
    params: Params,
    weight: OldWeight,
    task: TaskContext,
    batch: tuple[jax.Array, jax.Array, jax.Array],
    balanced: tuple[jax.Array, jax.Array],
    learning_rate: jax.Array,
) -> OldWeight:
    """Moves w down the gradient of what the next SGD step of the head would lead to.

    Args:
      loss: says how fast.
      network: of `params`.
      params: before the step.
      weight: to be moved.
      task: with the prior that w is added to.
      batch: features [batch, D], labels [batch] and weights [batch] of the training batch.
      balanced: features and labels of a batch with every class seen as often as the others.
      learning_rate: of the step looked ahead to.
    """

    def scores(head: Params, features: jax.Array) -> Outputs:
        return classify(network, {"params": {**params, "head": head}}, features)

    def inner(head: Params, value: jax.Array) -> jax.Array:
        features, labels, weights = batch
        prior = weighted(task, value).log_prior
        values = loss(scores(head, features), labels, prior, task.old)
        return jnp.sum(values * weights) / jnp.maximum(jnp.sum(weights), 1.0)

    def outer(value: jax.Array) -> jax.Array:
        gradients = task.only_trained_rows(jax.grad(inner)(params["head"], value))
        head = jax.tree.map(lambda p, g: p - learning_rate * g, params["head"], gradients)
        features, labels = balanced
        plain = jnp.where(task.seen, 0.0, -jnp.inf)
        logits = scores(head, features).logits
        return losses.softmax_cross_entropy(logits, labels, plain).mean()

    gradient = jax.grad(outer)(weight.value)
    updates, opt_state = optax.adam(loss.learning_rate).update(gradient, weight.opt_state)
    return OldWeight(weight.value + updates, opt_state)
