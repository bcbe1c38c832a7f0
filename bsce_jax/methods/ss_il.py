"""SS-IL: separated softmax and task-wise distillation."""

import dataclasses
from typing import ClassVar

from bsce_jax import losses
from bsce_jax.fields import field
from bsce_jax.methods import METHODS, Method, Step, Terms


@METHODS.register("ss_il")
@dataclasses.dataclass(frozen=True)
class SSIL(Method):
    """Separated Softmax for Incremental Learning (Ahn et al. 2021, sections 4.1 and 4.2).

    Each batch has `train.replay_batch_size` exemplars besides the new images. The distillation is
    summed over the old tasks.
    """

    loss: ClassVar[str] = "separated_softmax"
    replay_batch_size: ClassVar[int] = 32
    teacher: ClassVar[bool] = True
    temperature: float = field(2.0, "T, of the distillation", above=0.0)

    def terms(self, step: Step) -> Terms:
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
