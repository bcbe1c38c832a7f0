"""Replay: train on the new classes and the exemplars together."""

import dataclasses

from bsce_jax.methods import register
from bsce_jax.methods.base import Method


@register("replay")
@dataclasses.dataclass(frozen=True)
class Replay(Method):
    """Trains on the new images and the exemplars together, with nothing else."""
