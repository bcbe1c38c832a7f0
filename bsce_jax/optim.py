"""Learning rates and optimisers by name: `config.train.schedule`, `config.train.optimizer`.

A learning rate is one number a step, and enters the compiled step as data. Optimisers therefore do
not contain it.
"""

from collections.abc import Callable

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from bsce_jax.methods import Method, Stage
from bsce_jax.registry import Registry

# (stage, its number of steps) -> the learning rate of each step
Schedule = Callable[[Stage, int], optax.Schedule]
SCHEDULES: Registry[Schedule] = Registry("schedule")


@SCHEDULES.register("step")
def step(stage: Stage, steps: int) -> optax.Schedule:
    """Multiply by `stage.decay` at each milestone (LUCIR)."""
    boundaries: dict[int, float] = {}
    for milestone in stage.milestones:
        # in a short stage two milestones may share a step; none may fall before the first step
        at = max(1, round(milestone * steps))
        boundaries[at] = boundaries.get(at, 1.0) * stage.decay
    return optax.piecewise_constant_schedule(stage.learning_rate, boundaries)


@SCHEDULES.register("cosine")
def cosine(stage: Stage, steps: int) -> optax.Schedule:
    """Fall to 0 along a cosine (PODNet)."""
    return optax.cosine_decay_schedule(stage.learning_rate, steps)


@SCHEDULES.register("constant")
def constant(stage: Stage, steps: int) -> optax.Schedule:
    """Keep the learning rate constant."""
    return optax.constant_schedule(stage.learning_rate)


def learning_rates(stage: Stage, steps: int) -> np.ndarray:
    """Compute the learning rate of each step of a stage.

    The rates are an argument of the compiled step: a task with more images, or a second stage with
    another rate, compiles nothing anew.

    Args:
      stage: names the schedule.
      steps: optimiser steps of the stage.

    Returns:
      [steps] float32.
    """
    rate = SCHEDULES[stage.schedule](stage, steps)
    # as one program; outside of jit each operation would be compiled for each number of steps
    rates = np.asarray(jax.jit(jax.vmap(rate))(np.arange(steps)), np.float32)
    rising = max(1, round(steps * stage.warmup / max(1, stage.epochs)))
    return rates * np.minimum((1 + np.arange(steps, dtype=np.float32)) / rising, 1)


# from `config.train`, without the learning rate, by which the step multiplies the updates
OPTIMIZERS: Registry[Callable[[ConfigDict], optax.GradientTransformation]] = Registry("optimizer")


@OPTIMIZERS.register("sgd")
def sgd(train: ConfigDict) -> optax.GradientTransformation:
    """Make SGD as PyTorch defines it: weight decay is added to the gradient before momentum."""
    return optax.chain(optax.add_decayed_weights(train.weight_decay), optax.trace(train.momentum))


def make_optimizer(
    method: Method, train: ConfigDict, *, weight_decay: bool = True
) -> optax.GradientTransformationExtraArgs:
    """Make an optimiser of a run; the method's gradient transform comes first.

    Its `update` gets the `key` of the step, the `epoch` and the number of `images` too.

    Args:
      method: of the run.
      train: `config.train`.
      weight_decay: of the stage.
    """
    settings = train.copy_and_resolve_references()
    if not weight_decay:
        settings.weight_decay = 0.0
    return optax.chain(method.gradient_transform(), OPTIMIZERS[train.optimizer](settings))
