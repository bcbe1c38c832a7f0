"""PASS: prototype augmentation, for learning without memory."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from bsce_jax import losses
from bsce_jax.fields import field
from bsce_jax.methods import METHODS, Method, ModelState, Params, Probe, Step, TaskInfo, Terms


@METHODS.register("pass")
@dataclasses.dataclass(frozen=True)
class PASS(Method):
    """Prototype augmentation of PASS (Zhu et al. 2021, sections 3.2 and 3.3), without memory.

    The prototype of an old class is its mean feature. Prototypes with added noise replace the
    features of old classes in the training of the head, and distillation keeps the features in
    place. The paper's self-supervision by rotated images is left out. `config.loss` is the loss of
    the images. Prototypes are drawn equally from all old classes, so their loss is the plain
    cross-entropy.
    """

    memory: ClassVar[bool] = False
    teacher: ClassVar[bool] = True
    prototype: float = field(10.0, "weight of the classification of prototypes", least=0.0)
    distillation: float = field(
        10.0, "weight of the L2 distance to the previous model's features", least=0.0
    )

    def init_extra(self, params: Params, num_classes: int) -> dict[str, Any]:
        dim = params["head"]["weight"].shape[-1]
        return {"prototypes": jnp.zeros((num_classes, dim)), "radius": jnp.zeros(())}

    def terms(self, step: Step) -> Terms:
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
        # the root has no derivative at 0, the distance in the first step of a task
        distance = jnp.sqrt(jnp.sum(jnp.square(moved), axis=-1) + 1e-12)
        return {
            "classification": step.classification(),
            "prototype": self.prototype * step.mean(replayed),
            "distillation": self.distillation * step.mean(distance),
        }

    def end_training(self, model: ModelState, task: TaskInfo, probe: Probe) -> ModelState:
        """Store the mean feature of each new class, and in the first task the radius (eq. 6)."""
        means, variances = [], []
        for c in task.new:
            features = probe.features(model, task.records(c))
            means.append(features.mean(axis=0))
            variances.append(features.var(axis=0).mean())
        prototypes = model.extra["prototypes"].at[task.old : task.seen].set(np.stack(means))
        radius = model.extra["radius"] if task.old else jnp.sqrt(jnp.mean(jnp.stack(variances)))
        return dataclasses.replace(model, extra={"prototypes": prototypes, "radius": radius})
