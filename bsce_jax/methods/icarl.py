"""iCaRL, and LwF-MC, which is iCaRL without memory."""

import dataclasses
from typing import ClassVar

from bsce_jax import losses
from bsce_jax.fields import field
from bsce_jax.methods import METHODS, Method, Step, Terms


@METHODS.register("icarl")
@dataclasses.dataclass(frozen=True)
class ICaRL(Method):
    """iCaRL (Rebuffi et al. 2017, algorithms 2 to 5): distillation, herding, nearest class mean.

    Its predictions are the NME figures of the results. With the paper's sigmoid loss
    (`binary_cross_entropy`, the default) the targets are the labels for new classes and the
    teacher's sigmoids for old ones. With a softmax loss, as in most later code, the distillation is
    that of `il_baseline`; the fields apply only then.
    """

    loss: ClassVar[str] = "binary_cross_entropy"
    teacher: ClassVar[bool] = True
    distillation: float = field(0.25, "factor of the softmax distillation T^2 KL", least=0.0)
    temperature: float = field(2.0, "T, of the softmax distillation", above=0.0)

    def terms(self, step: Step) -> Terms:
        student, teacher, old = step.student.logits, step.teacher.logits, step.task.old
        if step.criterion.one_vs_rest:
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


@METHODS.register("lwf_mc")
@dataclasses.dataclass(frozen=True)
class LwFMC(ICaRL):
    """LwF for many classes (Rebuffi et al. 2017, section 4): iCaRL's sigmoids without memory."""

    memory: ClassVar[bool] = False
