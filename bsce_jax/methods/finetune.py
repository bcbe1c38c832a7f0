"""Fine-tuning: training on the new classes alone (lower bound)."""

import dataclasses
from typing import ClassVar

from bsce_jax.methods import METHODS, Method


@METHODS.register("finetune")
@dataclasses.dataclass(frozen=True)
class Finetune(Method):
    """Trains on the images of each task alone (`memory.size` is 0): the lower bound."""

    memory: ClassVar[bool] = False
