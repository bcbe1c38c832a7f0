"""Replay: training on the new images and the exemplars."""

import dataclasses

from bsce_jax.methods import METHODS, Method


@METHODS.register("replay")
@dataclasses.dataclass(frozen=True)
class Replay(Method):
    """Trains on the new images and the exemplars with the classification loss alone."""
