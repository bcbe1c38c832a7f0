"""The incremental-learning baseline: classification plus distillation of the old classes."""

import dataclasses
from typing import ClassVar

from bsce_jax import losses
from bsce_jax.fields import field
from bsce_jax.methods import METHODS, Method, Step, Terms

WEIGHTINGS = ("sum", "convex")


@METHODS.register("il_baseline")
@dataclasses.dataclass(frozen=True)
class ILBaseline(Method):
    """Replay with knowledge distillation over the old classes (Hou et al. 2019, section 3.1).

    With the balanced softmax, its default loss, it is the method of Jodelet et al. 2021.

    `sum` is classification + distillation, as in LUCIR's code. `convex` is (1 - rho) classification
    + rho distillation, rho = old classes / all classes, as in BiC and WA. The default factor of
    0.25 with T = 2 is the plain KL of LUCIR's code (there `beta`), of WA and of BiC.
    """

    loss: ClassVar[str] = "balanced_softmax"
    teacher: ClassVar[bool] = True
    weighting: str = field("sum", "how the two terms are weighted", choices=WEIGHTINGS)
    distillation: float = field(0.25, "factor of the distillation T^2 KL", least=0.0)
    temperature: float = field(2.0, "T, of the distillation", above=0.0)

    def terms(self, step: Step) -> Terms:
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
