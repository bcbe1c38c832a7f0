"""IL2M: a dual memory of images and of initial statistics."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bsce_jax.methods import register
from bsce_jax.methods.base import Method, ModelState, Params, Probe, TaskInfo


@register("il2m")
@dataclasses.dataclass(frozen=True)
class IL2M(Method):
    """IL2M (Belouadah and Popescu 2019): replay, with old scores rectified when predicting.

    An image that the network takes for a new class gets its old-class scores p multiplied by
    (mu_initial / mu_now) (confidence_now / confidence_initial) (equation 1): the class's mean score
    when it was new over its mean score now, and the network's mean top score now over then.
    """

    def init_extra(self, params: Params, num_classes: int) -> dict[str, Any]:
        ones = jnp.ones(num_classes)
        return {
            "class_initial": ones,  # mean score of the class on its images, when it was new
            "class_now": ones,  # the same today, on its exemplars
            "confidence_initial": ones,  # mean top score on the new images, when it was new
            "confidence_now": jnp.ones(()),  # the same today
            "new": jnp.zeros(num_classes, bool),
        }

    def end_training(self, model: ModelState, task: TaskInfo, probe: Probe) -> ModelState:
        logits = probe.logits(model, task.train)[:, : task.seen]
        scores = np.asarray(jax.nn.softmax(logits, axis=-1))
        labels = task.labels[task.train]
        own = scores[np.arange(len(labels)), labels]
        count = np.bincount(labels, minlength=task.seen)
        mean = np.bincount(labels, own, task.seen) / np.maximum(count, 1)
        confidence = scores[labels >= task.old].max(axis=1).mean()
        new, seen = slice(task.old, task.seen), slice(task.seen)
        extra = model.extra
        initial = extra["class_initial"].at[new].set(mean[new])
        # without an exemplar nothing is known of a class's score today: its factor stays 1
        now = jnp.where(count > 0, mean, initial[seen])
        extra = {
            "class_initial": initial,
            "class_now": extra["class_now"].at[seen].set(now),
            "confidence_initial": extra["confidence_initial"].at[new].set(confidence),
            "confidence_now": jnp.asarray(confidence, jnp.float32),
            "new": jnp.zeros_like(extra["new"]).at[new].set(True),
        }
        return dataclasses.replace(model, extra=extra)

    def predict(self, logits: jax.Array, extra: dict[str, Any]) -> jax.Array:
        scores = jax.nn.softmax(logits, axis=-1)
        factor = extra["class_initial"] / jnp.maximum(extra["class_now"], 1e-12)
        factor *= extra["confidence_now"] / extra["confidence_initial"]
        rectified = jnp.where(extra["new"], scores, scores * factor)
        taken_for_new = extra["new"][jnp.argmax(scores, axis=-1)]
        return jnp.where(taken_for_new[:, None], rectified, scores)
