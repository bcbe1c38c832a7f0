"""FeTrIL: feature translation, for learning without memory."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from bsce_jax import losses
from bsce_jax.methods import (
    METHODS,
    Method,
    ModelState,
    Params,
    Probe,
    Stage,
    Step,
    TaskInfo,
    Terms,
)


@METHODS.register("fetril")
@dataclasses.dataclass(frozen=True)
class FeTrIL(Method):
    """FeTrIL (Petit et al. 2023, equation 1): a frozen backbone and translated features.

    After the first task the backbone is frozen. A feature of a new class, translated by the
    difference of two class means, replaces one of an old class. The loss is weighted so that all
    classes count equally, also new ones with unequal numbers of images. So it is the plain
    cross-entropy whatever `config.loss` is: a prior would correct twice. Only the first task is
    trained with `config.loss`.
    """

    memory: ClassVar[bool] = False

    def stages(self, main: Stage, task: int) -> tuple[Stage, ...]:
        if task == 0:
            return (dataclasses.replace(main, terms=self.classification),)
        return (dataclasses.replace(main, trainable=("head",), batch_norm="frozen"),)

    def init_extra(self, params: Params, num_classes: int) -> dict[str, Any]:
        dim = params["head"]["weight"].shape[-1]
        return {"means": jnp.zeros((num_classes, dim))}

    def begin_task(self, model: ModelState, task: TaskInfo, probe: Probe) -> ModelState:
        return model if task.old == 0 else self._with_means(model, task, probe)

    def end_training(self, model: ModelState, task: TaskInfo, probe: Probe) -> ModelState:
        return model if task.old else self._with_means(model, task, probe)

    def _with_means(self, model: ModelState, task: TaskInfo, probe: Probe) -> ModelState:
        """Store the mean feature of each new class."""
        means = [probe.features(model, task.records(c)).mean(axis=0) for c in task.new]
        rows = model.extra["means"].at[task.old : task.seen].set(np.stack(means))
        return dataclasses.replace(model, extra={"means": rows})

    def terms(self, step: Step) -> Terms:
        task, means = step.task, step.extra["means"]
        seen = jnp.where(task.seen, 0.0, -jnp.inf)
        features = step.student.features
        share = task.counts / jnp.sum(task.counts, where=task.new) * jnp.sum(task.new)

        def real(labels: jax.Array) -> jax.Array:
            logits = step.student.logits
            return losses.softmax_cross_entropy(logits, labels, seen) / share[labels]

        old = jnp.where(task.old, 0.0, -jnp.inf)
        pseudo = jax.random.categorical(step.key, old, shape=step.labels.shape)
        translated = features - means[step.labels] + means[pseudo]
        replaced = losses.softmax_cross_entropy(step.classify(translated).logits, pseudo, seen)
        rho = task.old_fraction
        return {
            "classification": (1 - rho) * step.mean(step.of_both(real)),
            "translated": rho * step.mean(replaced),
        }
