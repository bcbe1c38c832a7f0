"""PODNet: pooled outputs distillation."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax

from bsce_jax import losses
from bsce_jax.methods import register
from bsce_jax.methods.base import Finetuning, Method, ModelState, Probe, Step, TaskInfo
from bsce_jax.methods.imprint import imprint


@register("podnet")
@dataclasses.dataclass(frozen=True)
class PODNet(Method):
    """PODNet (Douillard et al. 2020): LSC head, POD-spatial and POD-flat distillation.

    Both distillation terms are scaled by sqrt(seen / new classes).

    Attributes:
      spatial: weight of POD-spatial, on the maps of every stage (equations 3 to 5).
      flat: weight of POD-flat, on the final features (equation 6).
      clamp: largest absolute value of a gradient's element.
      finetune_epochs: of the balanced fine-tuning of the head; 0 leaves it out.
      finetune_learning_rate: at its start.
    """

    head: ClassVar[str] = "lsc"
    loss: ClassVar[str] = "nca"
    teacher: ClassVar[bool] = True
    freeze_old_rows: ClassVar[bool] = True
    spatial: float = 3.0
    flat: float = 1.0
    clamp: float = 5.0
    finetune_epochs: int = 20
    finetune_learning_rate: float = 0.05

    @property
    def finetuning(self) -> Finetuning | None:
        if not self.finetune_epochs:
            return None
        return Finetuning(self.finetune_epochs, self.finetune_learning_rate, head_only=True)

    def gradient_transform(self) -> optax.GradientTransformation:
        return optax.clip(self.clamp)

    def begin_task(self, model: ModelState, task: TaskInfo, probe: Probe) -> ModelState:
        return imprint(model, task, probe, proxies=model.params["head"]["weight"].shape[1])

    def terms(self, step: Step) -> dict[str, jax.Array]:
        student, teacher = step.student, step.teacher
        growth = jnp.sqrt(jnp.sum(step.task.seen) / jnp.sum(step.task.new))
        spatial = losses.pod_spatial(student.maps, teacher.maps)
        flat = losses.less_forget(student.features, teacher.features)
        return {
            "classification": step.classification(),
            "pod_spatial": self.spatial * growth * step.mean(spatial),
            "pod_flat": self.flat * growth * step.mean(flat),
        }
