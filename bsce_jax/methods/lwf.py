"""LwF: distillation without memory."""

import dataclasses
from typing import ClassVar

import jax

from bsce_jax import losses
from bsce_jax.methods import register
from bsce_jax.methods.base import Method, Step


@register("lwf")
@dataclasses.dataclass(frozen=True)
class LwF(Method):
    """Learning without Forgetting (Li and Hoiem 2016, equations 2 to 4), evaluated on one head.

    New images are classified among the new classes alone, which without exemplars is what the
    separated softmax does; the old logits are held to the previous model's.

    Attributes:
      weight: of the distillation, lambda_o.
      temperature: of the distillation.
    """

    loss: ClassVar[str] = "separated_softmax"
    memory: ClassVar[bool] = False
    teacher: ClassVar[bool] = True
    weight: float = 1.0
    temperature: float = 2.0

    def terms(self, step: Step) -> dict[str, jax.Array]:
        distillation = losses.distillation(
            step.student.logits,
            step.teacher.logits,
            temperature=self.temperature,
            where=step.task.old,
        )
        return {
            "classification": step.classification(),
            "distillation": self.weight * step.mean(distillation),
        }
