"""LUCIR: learning a unified classifier via rebalancing."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from bsce_jax import losses
from bsce_jax.methods import register
from bsce_jax.methods.base import Finetuning, Method, ModelState, Probe, Step, TaskInfo
from bsce_jax.methods.imprint import imprint


@register("lucir")
@dataclasses.dataclass(frozen=True)
class LUCIR(Method):
    """LUCIR (Hou et al. 2019): cosine head, less-forget constraint, inter-class separation.

    Attributes:
      less_forget: lambda_base; the constraint weighs lambda_base sqrt(old / new classes) (eq. 7).
      ranking: weight of the margin ranking loss, a mean over the exemplars of the batch (eq. 8).
      margin: by which an exemplar's own cosine should win.
      rivals: K, how many of the highest new-class cosines must lose.
      finetune_epochs: of the class-balanced fine-tuning of the head; 0 leaves it out.
      finetune_learning_rate: at its start.
    """

    head: ClassVar[str] = "cosine"
    teacher: ClassVar[bool] = True
    freeze_old_rows: ClassVar[bool] = True
    less_forget: float = 5.0
    ranking: float = 1.0
    margin: float = 0.5
    rivals: int = 2
    finetune_epochs: int = 0
    finetune_learning_rate: float = 0.01

    @property
    def finetuning(self) -> Finetuning | None:
        if not self.finetune_epochs:
            return None
        return Finetuning(self.finetune_epochs, self.finetune_learning_rate, head_only=True)

    def begin_task(self, model: ModelState, task: TaskInfo, probe: Probe) -> ModelState:
        return imprint(model, task, probe)

    def terms(self, step: Step) -> dict[str, jax.Array]:
        task, student = step.task, step.student
        weight = self.less_forget * jnp.sqrt(task.old_per_new)
        less_forget = losses.less_forget(student.features, step.teacher.features)
        ranking = losses.margin_ranking(
            student.scores, step.labels, task.old, k=self.rivals, margin=self.margin, seen=task.seen
        )
        return {
            "classification": step.classification(),
            "less_forget": weight * step.mean(less_forget),
            "ranking": self.ranking * step.mean(ranking, where=step.is_old),
        }
