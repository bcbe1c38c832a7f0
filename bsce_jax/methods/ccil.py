"""CCIL: new images and balanced exemplars in separate losses."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from bsce_jax import losses
from bsce_jax.fields import field
from bsce_jax.methods import METHODS, Method, Stage, Step, Terms


@METHODS.register("ccil")
@dataclasses.dataclass(frozen=True)
class CCIL(Method):
    """Compositional class incremental learning (Mittal et al. 2021), as in its code.

    A batch has new images, whose loss is over the new classes alone, and exemplars of all classes
    seen (`train.replay_batch_size`; in the code as many as new images), whose loss is over all of
    them. The exemplars of the new classes are chosen at random before the training, and those of
    the old ones reduced to the same number: with `memory.selection` `random`, as in the code, these
    are the ones that are kept. Both parts are distilled over the old classes. A balanced loss
    replaces the two losses by one over the whole batch.

    Each part has BatchNorm statistics of its own. The code has a low learning rate in later tasks
    (`train.later_learning_rate`), and CCIL-SD distils the first task's model once more
    (`train.self_distillation_epochs`).
    """

    teacher: ClassVar[bool] = True
    replay_batch_size: ClassVar[int] = 100
    distillation: float = field(
        5.0, "factor of the distillation T^2 KL / old classes, times (seen / new) ^ 0.66", least=0.0
    )
    temperature: float = field(2.0, "T, of the distillation", above=0.0)

    @property
    def head(self) -> str:
        return "cosine"

    def stages(self, main: Stage, task: int) -> tuple[Stage, ...]:
        return (dataclasses.replace(main, replay="all", batch_norm="parts"),)

    def terms(self, step: Step) -> Terms:
        task = step.task
        # without train.replay_batch_size the exemplars are among the other images
        exemplar = step.replayed | step.is_old
        if step.partners is not None:  # mixed with an exemplar: its loss is over all classes
            exemplar |= task.old[step.partners]
        divergence = losses.distillation(
            step.student.logits, step.teacher.logits, temperature=self.temperature, where=task.old
        )
        growth = (jnp.sum(task.seen) / jnp.sum(task.new)) ** 0.66
        weight = self.distillation * growth / jnp.sum(task.old)
        distillation = step.mean(divergence, ~exemplar) + step.mean(divergence, exemplar)
        if step.criterion.balanced:
            classification = step.classification()
        else:
            classification = step.classification(among=task.new, where=~exemplar)
            classification += step.classification(where=exemplar)
        return {"classification": classification, "distillation": weight * distillation}
