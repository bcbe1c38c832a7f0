"""EEIL: distillation head by head, then balanced fine-tuning."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from bsce_jax import losses
from bsce_jax.fields import field
from bsce_jax.methods import METHODS, Method, Params, Stage, Step, Terms


@METHODS.register("eeil")
@dataclasses.dataclass(frozen=True)
class EEIL(Method):
    """End-to-End Incremental Learning (Castro et al. 2018, sections 3.2 and 4.2).

    The distillation is summed over the heads of the old tasks. The whole network is fine-tuned on
    the memory, which then contains the new classes too. In the fine-tuning the teacher is the
    network before it, and the distillation is summed over the heads of all tasks.

    The gradients get noise as in the published code: its standard deviation in epoch t, from 0, is
    `noise` / (1 + t)^0.55 on the sum over the images of a batch, not on the mean.
    """

    teacher: ClassVar[bool] = True
    temperature: float = field(2.0, "T, of the distillation", above=0.0)
    finetune_epochs: int = field(
        30, "epochs of the balanced fine-tuning, 0 leaves it out", least=0, most=100_000
    )
    finetune_learning_rate: float = field(
        0.01, "learning rate at the start of the fine-tuning", above=0.0
    )
    noise: float = field(
        0.3, "standard deviation of the noise on the gradient of a batch's sum", least=0.0
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

    def gradient_transform(self) -> optax.GradientTransformation:
        return gradient_noise(self.noise) if self.noise else optax.identity()

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


def gradient_noise(deviation: float, gamma: float = 0.55) -> optax.GradientTransformationExtraArgs:
    """Make the transform that adds normal noise to the mean gradient of a batch.

    Its standard deviation is `deviation` / (1 + epoch)^gamma / images (Neelakantan et al. 2015 have
    the square root, and the step for the epoch).

    Args:
      deviation: of the sum over the images, in the first epoch.
      gamma: exponent of its decrease.
    """

    def update(
        updates: Params,
        state: optax.EmptyState,
        params: Params | None = None,
        *,
        key: jax.Array,
        epoch: jax.Array,
        images: jax.Array,
        **_: Any,
    ) -> tuple[Params, optax.EmptyState]:
        scale = deviation / (1.0 + epoch) ** gamma / jnp.maximum(images, 1.0)
        leaves, tree = jax.tree.flatten(updates)
        keys = jax.random.split(key, len(leaves))
        noisy = [
            leaf + scale * jax.random.normal(one, leaf.shape)
            for leaf, one in zip(leaves, keys, strict=True)
        ]
        return jax.tree.unflatten(tree, noisy), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
