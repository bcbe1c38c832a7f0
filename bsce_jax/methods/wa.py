"""WA: weight aligning."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from bsce_jax.fields import field
from bsce_jax.methods import METHODS, ModelState, Probe, TaskInfo
from bsce_jax.methods.il_baseline import WEIGHTINGS, ILBaseline


@METHODS.register("wa")
@dataclasses.dataclass(frozen=True)
class WA(ILBaseline):
    """Weight Aligning (Zhao et al. 2020): the baseline, then new class vectors are rescaled."""

    loss: ClassVar[str] = "cross_entropy"
    weighting: str = field("convex", "how the two terms are weighted", choices=WEIGHTINGS)

    def end_training(self, model: ModelState, task: TaskInfo, probe: Probe) -> ModelState:
        return align(model, task)


def align(model: ModelState, task: TaskInfo) -> ModelState:
    """Scale the new class vectors to the mean norm of the old ones (equations 7 and 8)."""
    if task.old == 0:
        return model
    head = model.params["head"]
    norms = jnp.linalg.norm(head["weight"], axis=1)
    gamma = norms[: task.old].mean() / norms[task.old : task.seen].mean()
    weight = head["weight"].at[task.old : task.seen].multiply(gamma)
    params = {**model.params, "head": {**head, "weight": weight}}
    return dataclasses.replace(model, params=params)
