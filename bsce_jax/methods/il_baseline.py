"""The incremental-learning baseline: classification plus distillation of the old classes."""

import dataclasses
from typing import ClassVar

import jax

from bsce_jax import losses
from bsce_jax.errors import unknown
from bsce_jax.methods import register
from bsce_jax.methods.base import Method, Step


@register("il_baseline")
@dataclasses.dataclass(frozen=True)
class ILBaseline(Method):
    """Replay with knowledge distillation over the old classes (Hou et al. 2019, section 3.1).

    With the balanced softmax it is the method of Jodelet et al. 2021, and that is its loss unless
    the config names another.

    Attributes:
      weighting: how the two terms are weighted. `sum`: classification + distillation, LUCIR's
        code. `convex`: (1 - rho) classification + rho distillation, rho = old classes / all
        classes, as in BiC and WA.
      distillation: factor of the distillation T^2 KL. 0.25 with T = 2 is the plain KL of LUCIR's
        code (there `beta`), of WA and of BiC.
      temperature: T, of the distillation.
    """

    loss: ClassVar[str] = "balanced_softmax"
    teacher: ClassVar[bool] = True
    weighting: str = "sum"
    distillation: float = 0.25
    temperature: float = 2.0

    def __post_init__(self) -> None:
        if self.weighting not in ("sum", "convex"):
            raise unknown("method.weighting", self.weighting, ("sum", "convex"))

    def terms(self, step: Step) -> dict[str, jax.Array]:
        distillation = self.distillation * step.mean(
            losses.distillation(
                step.student.logits,
                step.teacher.logits,
                temperature=self.temperature,
                where=step.task.old,
            )
        )
        if self.weighting == "sum":
            return {"classification": step.classification(), "distillation": distillation}
        rho = step.task.old_fraction
        return {
            "classification": (1 - rho) * step.classification(),
            "distillation": rho * distillation,
        }
