"""LUCIR: learning a unified classifier via rebalancing."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from bsce_jax import losses
from bsce_jax.fields import field
from bsce_jax.methods import METHODS, Method, ModelState, Probe, Stage, Step, TaskInfo, Terms
from bsce_jax.methods.imprint import imprint


@METHODS.register("lucir")
@dataclasses.dataclass(frozen=True)
class LUCIR(Method):
    """LUCIR (Hou et al. 2019): cosine head, less-forget constraint, inter-class separation.

    The weight of the constraint is lambda_base sqrt(old / new classes) (equation 7). The margin
    ranking loss is averaged over the exemplars of the batch (equation 8).
    """

    teacher: ClassVar[bool] = True
    less_forget: float = field(5.0, "lambda_base, of the less-forget constraint", least=0.0)
    ranking: float = field(1.0, "weight of the margin ranking loss", least=0.0)
    margin: float = field(0.5, "by which an exemplar's own cosine should win")
    rivals: int = field(2, "K, how many new classes the ranking loss compares with", least=1)
    finetune_epochs: int = field(
        0, "epochs of the balanced fine-tuning of the head, 0 leaves it out", least=0, most=100_000
    )
    finetune_learning_rate: float = field(
        0.01, "learning rate at the start of the fine-tuning", above=0.0
    )

    @property
    def head(self) -> str:
        return "cosine"

    def stages(self, main: Stage, task: int) -> tuple[Stage, ...]:
        """Train with frozen old class vectors, then fine-tune the class vectors if configured.

        The fine-tuning is that of LUCIR's ImageNet script: the scale is frozen, BatchNorm uses its
        running statistics, and the learning rate decays once, after half of the epochs.
        """
        main = dataclasses.replace(main, freeze_old_rows=True)
        if task == 0 or not self.finetune_epochs:
            return (main,)
        return main, main.balanced_finetuning(
            epochs=self.finetune_epochs,
            learning_rate=self.finetune_learning_rate,
            schedule="step",
            milestones=(0.5,),
            terms=self.head_terms,
            teacher="none",
            trainable=("head/weight",),
            batch_norm="frozen",
        )

    def begin_task(self, model: ModelState, task: TaskInfo, probe: Probe) -> ModelState:
        return imprint(model, task, probe)

    def terms(self, step: Step) -> Terms:
        task, student = step.task, step.student
        weight = self.less_forget * jnp.sqrt(task.old_per_new)
        less_forget = losses.less_forget(student.features, step.teacher.features)
        return {**self.head_terms(step), "less_forget": weight * step.mean(less_forget)}

    def head_terms(self, step: Step) -> Terms:
        """Return the terms that depend on the class vectors."""
        task = step.task
        ranking = losses.margin_ranking(
            step.student.scores,
            step.labels,
            task.old,
            k=self.rivals,
            margin=self.margin,
            seen=task.seen,
        )
        return {
            "classification": step.classification(),
            "ranking": self.ranking * step.mean(ranking, where=step.is_old),
        }
