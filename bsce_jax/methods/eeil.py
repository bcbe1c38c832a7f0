"""EEIL: distillation head by head, then balanced fine-tuning."""

import dataclasses
from typing import ClassVar

import jax

from bsce_jax import losses
from bsce_jax.methods import register
from bsce_jax.methods.base import Finetuning, Method, Step


@register("eeil")
@dataclasses.dataclass(frozen=True)
class EEIL(Method):
    """End-to-End Incremental Learning (Castro et al. 2018, sections 3.2 and 4.2).

    The whole network is fine-tuned on the memory, which by then holds the new classes too. The
    paper's gradient noise and its extra distillation from a copy of the network made before the
    fine-tuning are left out.

    Attributes:
      temperature: of the distillation, summed over the heads of the old tasks.
      finetune_epochs: of the balanced fine-tuning; 0 leaves it out.
      finetune_learning_rate: at its start.
    """

    teacher: ClassVar[bool] = True
    temperature: float = 2.0
    finetune_epochs: int = 30
    finetune_learning_rate: float = 0.01

    @property
    def finetuning(self) -> Finetuning | None:
        if not self.finetune_epochs:
            return None
        return Finetuning(self.finetune_epochs, self.finetune_learning_rate, head_only=False)

    def terms(self, step: Step) -> dict[str, jax.Array]:
        distillation = losses.taskwise_distillation(
            step.student.logits,
            step.teacher.logits,
            step.task.task_of_class,
            step.task.old,
            temperature=self.temperature,
        )
        return {
            "classification": step.classification(),
            "distillation": step.mean(distillation),
        }
