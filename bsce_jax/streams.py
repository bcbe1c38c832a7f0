"""Random streams on the host, one for each purpose."""

import enum

import numpy as np

from bsce_jax.errors import UserError

SEEDS = 2**32  # seeds are below this: what more bits mean differs between generators


class Purpose(enum.IntEnum):
    """The purpose of a random stream. The values never change: results depend on them."""

    EPOCH = 0
    BALANCED = 1
    SELECTION = 2
    HOLDOUT = 3
    KMEANS = 4
    FISHER = 5
    EXPANSION = 6
    VALIDATION = 7
    BRANCH = 8


def generator(seed: int, purpose: Purpose, task: int, number: int = 0) -> np.random.Generator:
    """Make the random generator of one purpose; each combination of arguments has its own stream.

    Args:
      seed: of the run, from 0 to 2^32 - 1.
      purpose: of the stream.
      task: number of the task.
      number: of the epoch or of the class position, where there are several in a task.

    Raises:
      UserError: another seed.
    """
    if not 0 <= seed < SEEDS:
        raise UserError(f"seed is {seed}: choose 0 to {SEEDS - 1}")
    # always three numbers: keys of different lengths could collide between purposes
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(task, number, purpose)))
