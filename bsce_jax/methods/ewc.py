"""EWC: elastic weight consolidation, online."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from bsce_jax import losses
from bsce_jax.memory import generator
from bsce_jax.methods import register
from bsce_jax.methods.base import Method, ModelState, Params, Probe, Step, TaskInfo
from bsce_jax.models import Classifier, evaluate

BATCH = 64  # per-example gradients held at once


@register("ewc")
@dataclasses.dataclass(frozen=True)
class EWC(Method):
    """Online Elastic Weight Consolidation (Kirkpatrick et al. 2017; Schwarz et al. 2018).

    Weights that mattered are held to where the previous task left them by
    weight / 2 sum_i F_i (theta_i - theta*_i)^2, F <- decay F + (the task's own diagonal Fisher
    information): the mean squared gradient of log p(label) over at most `samples` images.

    Attributes:
      weight: lambda.
      decay: gamma, what is left of earlier tasks' information.
      samples: images that the information is estimated on.
      fisher_max: largest value of F that counts; the penalty's own step is stable only while the
        learning rate times weight times F is well below 2.
    """

    memory: ClassVar[bool] = False
    teacher: ClassVar[bool] = True
    weight: float = 1000.0
    decay: float = 1.0
    samples: int = 2048
    fisher_max: float = 1e-4

    def init_extra(self, params: Params, num_classes: int) -> dict[str, Any]:
        return {"fisher": jax.tree.map(jnp.zeros_like, params)}

    def terms(self, step: Step) -> dict[str, jax.Array]:
        penalty = jax.tree.map(
            lambda f, now, then: jnp.sum(jnp.minimum(f, self.fisher_max) * jnp.square(now - then)),
            step.extra["fisher"],
            step.params,
            step.previous.params,
        )
        return {
            "classification": step.classification(),
            "consolidation": self.weight / 2 * sum(jax.tree.leaves(penalty), jnp.zeros(())),
        }

    def end_training(self, model: ModelState, task: TaskInfo, probe: Probe) -> ModelState:
        rng = generator(task.seed, task.index, 0, 0, 0)
        some = rng.permutation(task.train)[: self.samples]
        own = fisher(probe, model, some, task.labels, task.seen)
        total = jax.tree.map(lambda f, new: self.decay * f + new, model.extra["fisher"], own)
        return dataclasses.replace(model, extra={"fisher": total})


def fisher(
    probe: Probe, model: ModelState, indices: np.ndarray, labels: np.ndarray, seen: int
) -> Params:
    """Estimates the diagonal of the Fisher information from the images' own labels.

    Args:
      probe: looks at the images.
      model: whose parameters it is about.
      indices: [n] records.
      labels: position of every record.
      seen: number of classes that compete.
    """
    total = jax.tree.map(jnp.zeros_like, model.params)
    for start in range(0, len(indices), BATCH):
        part = indices[start : start + BATCH]
        weights = np.zeros(BATCH, np.float32)
        weights[: len(part)] = 1  # one shape only: a short batch is filled up
        part = np.resize(part, BATCH)
        squares = _squared_gradients(
            probe.network, model, probe.images(part), labels[part], weights, np.int32(seen)
        )
        total = jax.tree.map(jnp.add, total, squares)
    return jax.tree.map(lambda x: x / len(indices), total)


def _squared_gradients(
    network: Classifier,
    model: ModelState,
    images: jax.Array,
    labels: np.ndarray,
    weights: np.ndarray,
    seen: np.int32,
) -> Params:
    def log_likelihood(params: Params, image: jax.Array, label: jax.Array) -> jax.Array:
        variables = {"params": params, "batch_stats": model.batch_stats}
        logits = evaluate(network, variables, image[None]).logits
        prior = jnp.where(jnp.arange(logits.shape[-1]) < seen, 0.0, -jnp.inf)
        return losses.softmax_cross_entropy(logits, label[None], prior)[0]

    gradients = jax.vmap(jax.grad(log_likelihood), (None, 0, 0))(model.params, images, labels)
    return jax.tree.map(lambda g: jnp.tensordot(weights, jnp.square(g), axes=1), gradients)


_squared_gradients = jax.jit(_squared_gradients, static_argnums=0)
