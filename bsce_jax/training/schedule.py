"""Learning rates: the references' schedules, as one number a step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

SCHEDULES = ("step", "cosine", "constant")


def learning_rates(
    schedule: str,
    *,
    learning_rate: float,
    epochs: int,
    steps_per_epoch: int,
    milestones: tuple[float, ...],
    decay: float,
) -> np.ndarray:
    """Evaluates a schedule at every step of a stage.

    Being arrays, the rates enter the compiled step as data: a task with more images, or a second
    stage with another rate, compiles nothing anew.

    Args:
      schedule: `step` multiplies by `decay` at each milestone (LUCIR), `cosine` falls to 0
        (PODNet), `constant` does neither.
      learning_rate: at the start.
      epochs: of the stage.
      steps_per_epoch: optimiser steps an epoch.
      milestones: fractions of the stage at which the rate falls.
      decay: factor at each milestone.

    Returns:
      [epochs * steps_per_epoch] float32.
    """
    total = epochs * steps_per_epoch
    if schedule == "step":
        boundaries = {round(m * total): decay for m in milestones}
        rate = optax.piecewise_constant_schedule(learning_rate, boundaries)
    elif schedule == "cosine":
        rate = optax.cosine_decay_schedule(learning_rate, total)
    else:
        rate = optax.constant_schedule(learning_rate)
    steps = jnp.arange(total)
    return np.asarray(jnp.broadcast_to(jax.vmap(rate)(steps), (total,)), np.float32)
