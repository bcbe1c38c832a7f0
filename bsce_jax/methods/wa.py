"""WA: weight aligning."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from bsce_jax.methods import register
from bsce_jax.methods.base import ModelState, Probe, TaskInfo
from bsce_jax.methods.il_baseline import ILBaseline


@register("wa")
@dataclasses.dataclass(frozen=True)
class WA(ILBaseline):
    """Weight Aligning (Zhao et al. 2020): the baseline, then one factor for the new class vectors.

    Attributes:
      weighting: of the two loss terms, see `il_baseline`.
      distillation: factor of the distillation T^2 KL, see `il_baseline`.
      temperature: of the distillation.
    """

    loss: ClassVar[str] = "cross_entropy"
    weighting: str = "convex"

    def end_training(self, model: ModelState, task: TaskInfo, probe: Probe) -> ModelState:
        """Scales the new vectors to the mean norm of the old ones (equations 7 and 8)."""
        if task.old == 0:
            return model
        head = model.params["head"]
        norms = jnp.linalg.norm(head["weight"], axis=1)
        gamma = norms[: task.old].mean() / norms[task.old : task.seen].mean()
        weight = head["weight"].at[task.old : task.seen].multiply(gamma)
        params = {**model.params, "head": {**head, "weight": weight}}
        return dataclasses.replace(model, params=params)
