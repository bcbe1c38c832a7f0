"""EEIL: distillation head by head, then balanced fine-tuning."""

import dataclasses
from typing import ClassVar

import jax

from bsce_jax import losses
from bsce_jax.fields import field
from bsce_jax.methods import METHODS, Method, Stage, Step, Terms


@METHODS.register("eeil")
@dataclasses.dataclass(frozen=True)
class EEIL(Method):
    """End-to-End Incremental Learning (Castro et al. 2018, sections 3.2 and 4.2).

    The distillation is summed over the heads of the old tasks. The whole network is fine-tuned on
    the memory, which then contains the new classes too. In the fine-tuning the teacher is the
    network before it, and the distillation is summed over the heads of all tasks.

    The paper's gradient noise is left out. It does not say whether a gradient is the sum or the
    mean over the batch, and on the mean its variance, 0.3 at the first step, exceeds the gradient.
    """

    teacher: ClassVar[bool] = True
    temperature: float = field(2.0, "T, of the distillation", above=0.0)
    finetune_epochs: int = field(
        30, "epochs of the balanced fine-tuning, 0 leaves it out", least=0, most=100_000
    )
    finetune_learning_rate: float = field(
        0.01, "learning rate at the start of the fine-tuning", above=0.0
    )

    def stages(self, main: Stage, task: int) -> tuple[Stage, ...]:
        if task == 0 or not self.finetune_epochs:
            return (main,)
        return main, main.balanced_finetuning(
            epochs=self.finetune_epochs,
            learning_rate=self.finetune_learning_rate,
            terms=self.finetuning_terms,
            teacher="start",
        )

    def terms(self, step: Step) -> Terms:
        return self._terms(step, step.task.old)

    def finetuning_terms(self, step: Step) -> Terms:
        """Return the terms of the fine-tuning, with the distillation of the new classes too."""
        return self._terms(step, step.task.seen)

    def _terms(self, step: Step, distilled: jax.Array) -> Terms:
        distillation = losses.taskwise_distillation(
            step.student.logits,
            step.teacher.logits,
            step.task.task_of_class,
            distilled,
            temperature=self.temperature,
        )
        return {
            "classification": step.classification(),
            "distillation": step.mean(distillation),
        }
