"""LwF: distillation without memory."""

import dataclasses
from typing import ClassVar

from bsce_jax import losses
from bsce_jax.fields import field
from bsce_jax.methods import METHODS, Method, Step, Terms


@METHODS.register("lwf")
@dataclasses.dataclass(frozen=True)
class LwF(Method):
    """Learning without Forgetting (Li and Hoiem 2016, equations 2 to 4), evaluated on one head.

    New images are classified among the new classes alone: without exemplars that is the separated
    softmax. The old logits are distilled from the previous model.
    """

    loss: ClassVar[str] = "separated_softmax"
    memory: ClassVar[bool] = False
    teacher: ClassVar[bool] = True
    weight: float = field(1.0, "lambda_o, weight of the distillation", least=0.0)
    temperature: float = field(2.0, "T, of the distillation", above=0.0)

    def terms(self, step: Step) -> Terms:
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
