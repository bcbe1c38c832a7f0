"""FeTrIL: feature translation, for learning without memory."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from bsce_jax import losses
from bsce_jax.methods import register
from bsce_jax.methods.base import Method, ModelState, Params, Probe, Step, TaskInfo


@register("fetril")
@dataclasses.dataclass(frozen=True)
class FeTrIL(Method):
    """FeTrIL (Petit et al. 2023, equation 1): a frozen backbone and translated features.

    After the first task the backbone stays as it is. A feature of a new class, moved by the
    difference of two class means, stands in for one of an old class. Every batch weighs all
    classes alike, so the loss here is the plain cross-entropy whatever `config.loss` says: a
    prior would correct twice. The first task is trained with `config.loss`.
    """

    memory: ClassVar[bool] = False
    teacher: ClassVar[bool] = True
    freeze_backbone: ClassVar[bool] = True

    def init_extra(self, params: Params, num_classes: int) -> dict[str, Any]:
        dim = params["head"]["weight"].shape[-1]
        return {"means": jnp.zeros((num_classes, dim))}

    def begin_task(self, model: ModelState, task: TaskInfo, probe: Probe) -> ModelState:
        return model if task.old == 0 else self._with_means(model, task, probe)

    def end_training(self, model: ModelState, task: TaskInfo, probe: Probe) -> ModelState:
        return model if task.old else self._with_means(model, task, probe)

    def _with_means(self, model: ModelState, task: TaskInfo, probe: Probe) -> ModelState:
        """Keeps the mean feature of each new class, as the frozen backbone sees it."""
        means = [probe.features(model, task.records(c)).mean(axis=0) for c in task.new]
        rows = model.extra["means"].at[task.old : task.seen].set(np.stack(means))
        return dataclasses.replace(model, extra={"means": rows})

    def terms(self, step: Step) -> dict[str, jax.Array]:
        task, means = step.task, step.extra["means"]
        prior = jnp.where(task.seen, 0.0, -jnp.inf)

        def classify(features: jax.Array, labels: jax.Array) -> jax.Array:
            logits = step.classify(features).logits
            return step.mean(losses.softmax_cross_entropy(logits, labels, prior))

        # the teacher has the same backbone, and looks in eval mode
        features = step.teacher.features
        old = jnp.where(task.old, 0.0, -jnp.inf)
        pseudo = jax.random.categorical(step.key, old, shape=step.labels.shape)
        translated = features - means[step.labels] + means[pseudo]
        rho = task.old_fraction
        return {
            "classification": (1 - rho) * classify(features, step.labels),
            "translated": rho * classify(translated, pseudo),
        }
