"""PASS: prototype augmentation, for learning without memory."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from bsce_jax import losses
from bsce_jax.methods import register
from bsce_jax.methods.base import Method, ModelState, Params, Probe, Step, TaskInfo


@register("pass")
@dataclasses.dataclass(frozen=True)
class PASS(Method):
    """Prototype augmentation of PASS (Zhu et al. 2021, sections 3.2 and 3.3), without memory.

    Of each old class only the mean feature is kept. Noise round these prototypes makes features
    of old classes that the head goes on classifying, while distillation holds the features. The
    paper's self-supervision by rotated images is left out. `config.loss` classifies the images;
    the prototypes come in equal numbers, so theirs is the plain cross-entropy.

    Attributes:
      prototype: weight of the classification of prototypes.
      distillation: weight of the L2 distance to the previous model's features.
    """

    memory: ClassVar[bool] = False
    teacher: ClassVar[bool] = True
    prototype: float = 10.0
    distillation: float = 10.0

    def init_extra(self, params: Params, num_classes: int) -> dict[str, Any]:
        dim = params["head"]["weight"].shape[-1]
        return {"prototypes": jnp.zeros((num_classes, dim)), "radius": jnp.zeros(())}

    def terms(self, step: Step) -> dict[str, jax.Array]:
        task, extra = step.task, step.extra
        key_class, key_noise = jax.random.split(step.key)
        old = jnp.where(task.old, 0.0, -jnp.inf)
        labels = jax.random.categorical(key_class, old, shape=step.labels.shape)
        prototypes = extra["prototypes"][labels]
        noise = extra["radius"] * jax.random.normal(key_noise, prototypes.shape)
        outputs = step.classify(prototypes + noise)
        seen = jnp.where(task.seen, 0.0, -jnp.inf)
        replayed = losses.softmax_cross_entropy(outputs.logits, labels, seen)
        moved = step.student.features - jax.lax.stop_gradient(step.teacher.features)
        # the root has no derivative at 0, where the first step of a task stands
        distance = jnp.sqrt(jnp.sum(jnp.square(moved), axis=-1) + 1e-12)
        return {
            "classification": step.classification(),
            "prototype": self.prototype * step.mean(replayed),
            "distillation": self.distillation * step.mean(distance),
        }

    def end_training(self, model: ModelState, task: TaskInfo, probe: Probe) -> ModelState:
        """Keeps the new classes' mean features; the first task also gives the radius (eq. 6)."""
        means, variances = [], []
        for c in task.new:
            features = probe.features(model, task.records(c))
            means.append(features.mean(axis=0))
            variances.append(features.var(axis=0).mean())
        prototypes = model.extra["prototypes"].at[task.old : task.seen].set(np.stack(means))
        radius = model.extra["radius"] if task.old else jnp.sqrt(jnp.mean(jnp.stack(variances)))
        return dataclasses.replace(model, extra={"prototypes": prototypes, "radius": radius})
