"""The state and the batches of the train step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from bsce_jax.methods import ModelState, Stage
from bsce_jax.methods.criterion import Criterion


@struct.dataclass
class TrainState:
    """The state that a train step updates.

    Attributes:
      model: the network and the method's arrays.
      opt_state: optax's state of the parameters that the stage trains, float32.
      criterion: the learned state of the classification loss, None without one.
    """

    model: ModelState
    opt_state: optax.OptState
    criterion: Any


class Batches(NamedTuple):
    """A chunk of `K` batches.

    Attributes:
      images: what the feed's `put` returned, with the leading axis [K].
      labels: [K, batch] int32, positions in the class order.
      weights: [K, batch] float32, 1 for a sample, 0 for padding. A batch of padding alone
        changes nothing; such batches fill the last chunk of a stage.
      learning_rate: [K] float32.
      step: [K] int32, number of the step within its stage.
      balanced: class-balanced batches, as `images` and `labels`, for a loss with a learned state.
    """

    images: Any
    labels: jax.Array
    weights: jax.Array
    learning_rate: jax.Array
    step: jax.Array
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
) -> TrainState:
    """Make the initial state of a stage, with a copy of the model, since the step donates it."""
    model = jax.tree.map(jnp.copy, model)
    trained, _ = stage.split(model.params)
    return TrainState(
        model=model,
        opt_state=optimizer.init(trained),
        criterion=criterion.init_state(num_classes),
    )
