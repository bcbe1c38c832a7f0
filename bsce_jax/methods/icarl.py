"""iCaRL, and LwF-MC, which is iCaRL without memory."""

import dataclasses
from typing import ClassVar

import jax

from bsce_jax import losses
from bsce_jax.methods import register
from bsce_jax.methods.base import Method, Step


@register("icarl")
@dataclasses.dataclass(frozen=True)
class ICaRL(Method):
    """iCaRL (Rebuffi et al. 2017, algorithms 2 to 5): distillation, herding, nearest class mean.

    Its own predictions are the NME rows of the results. With the sigmoid loss of the paper
    (`binary_cross_entropy`, the default) labels teach the new classes and the previous model's
    sigmoids the old ones. With a softmax loss, as in most later code, the distillation is a
    softmax's too, and the training is that of `il_baseline`.

    Attributes:
      distillation: factor of the softmax distillation T^2 KL; 0.25 with T = 2 is the plain KL.
      temperature: T, of the softmax distillation.
    """

    loss: ClassVar[str] = "binary_cross_entropy"
    teacher: ClassVar[bool] = True
    distillation: float = 0.25
    temperature: float = 2.0

    def terms(self, step: Step) -> dict[str, jax.Array]:
        student, teacher, old = step.student.logits, step.teacher.logits, step.task.old
        if step.loss.one_vs_rest:
            return {
                "classification": step.classification(among=step.task.new),
                "distillation": step.mean(losses.binary_distillation(student, teacher, where=old)),
            }
        distillation = losses.distillation(
            student, teacher, temperature=self.temperature, where=old
        )
        return {
            "classification": step.classification(),
            "distillation": self.distillation * step.mean(distillation),
        }


@register("lwf_mc")
@dataclasses.dataclass(frozen=True)
class LwFMC(ICaRL):
    """LwF for many classes (Rebuffi et al. 2017, section 4): iCaRL's sigmoids without memory.

    Attributes:
      distillation, temperature: as iCaRL's.
    """

    memory: ClassVar[bool] = False
