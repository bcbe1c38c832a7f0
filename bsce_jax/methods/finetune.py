"""Fine-tuning: train on the new classes and do nothing about the old ones (lower bound)."""

import dataclasses
from typing import ClassVar

from bsce_jax.methods import register
from bsce_jax.methods.base import Method


@register("finetune")
@dataclasses.dataclass(frozen=True)
class Finetune(Method):
    """Trains on each task's images alone, while `memory.size` is 0: the lower bound."""

    memory: ClassVar[bool] = False
