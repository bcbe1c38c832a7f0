"""SS-IL: separated softmax and task-wise distillation."""

import dataclasses
from typing import ClassVar

import jax

from bsce_jax import losses
from bsce_jax.methods import register
from bsce_jax.methods.base import Method, Step


@register("ss_il")
@dataclasses.dataclass(frozen=True)
class SSIL(Method):
    """Separated Softmax for Incremental Learning (Ahn et al. 2021, sections 4.1 and 4.2).

    Each batch has `train.replay_batch_size` places of its own for exemplars.

    Attributes:
      temperature: of the distillation, summed over the old tasks.
    """

    loss: ClassVar[str] = "separated_softmax"
    replay_batch_size: ClassVar[int] = 32
    teacher: ClassVar[bool] = True
    temperature: float = 2.0

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
