"""IL2M: a dual memory of images and initial statistics."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bsce_jax.methods import METHODS, Method, ModelState, Params, Probe, TaskInfo


@METHODS.register("il2m")
@dataclasses.dataclass(frozen=True)
class IL2M(Method):
    """IL2M (Belouadah and Popescu 2019): replay, with old scores rectified when predicting.

    If the network predicts a new class, the scores of old classes are multiplied by
    (mu_initial / mu_now) (confidence_now / confidence_initial) (equation 1). mu is the mean score
    of the class on its images, confidence the mean top score on new images; `initial` is after the
    task of the class, `now` after the present task.
    """

    def init_extra(self, params: Params, num_classes: int) -> dict[str, Any]:
        ones = jnp.ones(num_classes)
        return {
            "class_initial": ones,  # mean score of each class on its images, after its task
            "class_now": ones,  # the same after the present task, on its exemplars
            "confidence_initial": ones,  # mean top score on the new images, after its task
            "confidence_now": jnp.ones(()),  # the same after the present task
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
        # a class without exemplars has no present score: keep the initial one
        now = jnp.where(count > 0, mean, initial[seen])
        extra = {
            "class_initial": initial,
            "class_now": extra["class_now"].at[seen].set(now),
            "confidence_initial": extra["confidence_initial"].at[new].set(confidence),
            "confidence_now": jnp.asarray(confidence, jnp.float32),
            "new": jnp.zeros_like(extra["new"]).at[new].set(True),
        }
        return dataclasses.replace(model, extra=extra)

    def predict(self, logits: jax.Array, features: jax.Array, extra: dict[str, Any]) -> jax.Array:
        scores = jax.nn.log_softmax(logits, axis=-1)
        factor = extra["class_initial"] / jnp.maximum(extra["class_now"], 1e-12)
        factor *= extra["confidence_now"] / extra["confidence_initial"]
        rectified = jnp.where(extra["new"][None], scores, scores + jnp.log(factor)[None])
        taken_for_new = extra["new"][jnp.argmax(scores, axis=-1)]
        return jnp.where(taken_for_new[:, None], rectified, scores)
