"""The state and the batches of the train step."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from bsce_jax.methods import ModelState, Params, Stage
from bsce_jax.methods.criterion import Criterion


@struct.dataclass
class TrainState:
    """The state that a train step updates.

    Attributes:
      model: the network and the method's arrays.
      opt_state: optax's state of the parameters that the stage trains, float32.
      criterion: the learned state of the classification loss, None without one.
      average: running averages of the model's `params` and `batch_stats`, None without them.
    """

    model: ModelState
    opt_state: optax.OptState
    criterion: Any
    average: Params | None = None

    @property
    def training(self) -> tuple[Any, ...]:
        """All but the model, as it is checkpointed."""
        always = (self.opt_state, self.criterion)
        return always if self.average is None else (*always, self.average)

    @property
    def outcome(self) -> ModelState:
        """The model that the stage ends with: the average if there is one."""
        if self.average is None:
            return self.model
        return dataclasses.replace(self.model, **self.average)


class Batches(NamedTuple):
    """A chunk of `K` batches.

    Attributes:
      images: what the feed's `put` returned, with the leading axis [K].
      labels: [K, batch] int32, positions in the class order.
      weights: [K, batch] float32, 1 for a sample, 0 for padding. A batch of padding alone
        changes nothing; such batches fill the last chunk of a stage.
      learning_rate: [K] float32.
      step: [K] int32, number of the step within its stage.
      epoch: [K] int32, number of the epoch within its stage.
      balanced: class-balanced batches, as `images` and `labels`, for a loss with a learned state.
    """

    images: Any
    labels: jax.Array
    weights: jax.Array
    learning_rate: jax.Array
    step: jax.Array
    epoch: jax.Array
    balanced: tuple[Any, jax.Array] | None


@jax.jit
def all_finite(state: TrainState) -> jax.Array:
    """Tell whether every number of a state is finite, [] bool."""
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(state)]
    return jnp.all(jnp.stack(finite))


def start_stage(
    model: ModelState,
    stage: Stage,
    optimizer: optax.GradientTransformation,
    criterion: Criterion,
    num_classes: int,
    averages: bool,
) -> TrainState:
    """Make the initial state of a stage, with a copy of the model, since the step donates it."""
    model = jax.tree.map(jnp.copy, model)
    trained, _ = stage.split(model.params)
    return TrainState(
        model=model,
        opt_state=optimizer.init(trained),
        criterion=criterion.init_state(num_classes),
        average=jax.tree.map(jnp.copy, model.variables) if averages else None,
    )


def averaged(average: Params, model: ModelState, decay: float, step: jax.Array) -> Params:
    """Move a running average of weights and statistics towards a model.

    The decay grows from 0.1 to its final value, as (1 + step) / (10 + step), so that the average
    soon forgets the weights that the stage began with. An array that stays as it is has itself as
    its average, bit by bit.
    """
    share = 1 - jnp.minimum(decay, (1.0 + step) / (10.0 + step))

    def move(old: jax.Array, new: jax.Array) -> jax.Array:
        return old + share * (new - old) if jnp.issubdtype(new.dtype, jnp.floating) else new

    return jax.tree.map(move, average, model.variables)
