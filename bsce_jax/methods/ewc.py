"""EWC: elastic weight consolidation, online."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from bsce_jax import losses
from bsce_jax.fields import field
from bsce_jax.methods import METHODS, Method, ModelState, Params, Probe, Step, TaskInfo, Terms
from bsce_jax.models import Classifier, infer
from bsce_jax.streams import Purpose, generator

BATCH = 64  # per-example gradients in memory at a time


@METHODS.register("ewc")
@dataclasses.dataclass(frozen=True)
class EWC(Method):
    """Online Elastic Weight Consolidation (Kirkpatrick et al. 2017; Schwarz et al. 2018).

    The penalty weight / 2 sum_i F_i (theta_i - theta*_i)^2 draws each parameter to its value after
    the previous task. After each task F becomes decay F + the task's diagonal Fisher information:
    the mean squared gradient of log p(label) over at most `samples` images.

    A gradient step on the penalty is stable only if learning rate x weight x F is well below 2, so
    F is clipped at `fisher_max`.
    """

    memory: ClassVar[bool] = False
    teacher: ClassVar[bool] = True
    weight: float = field(1000.0, "lambda, weight of the penalty", least=0.0)
    decay: float = field(1.0, "gamma, factor of earlier tasks' information", least=0.0, most=1.0)
    samples: int = field(2048, "images that the information is estimated from", least=1)
    fisher_max: float = field(1e-4, "value at which F is clipped", above=0.0)

    def init_extra(self, params: Params, num_classes: int) -> dict[str, Any]:
        return {"fisher": jax.tree.map(jnp.zeros_like, params)}

    def terms(self, step: Step) -> Terms:
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
        rng = generator(task.seed, Purpose.FISHER, task.index)
        some = rng.permutation(task.train)[: self.samples]
        own = fisher(probe, model, some, task.labels, task.seen)
        total = jax.tree.map(lambda f, new: self.decay * f + new, model.extra["fisher"], own)
        return dataclasses.replace(model, extra={"fisher": total})


def fisher(
    probe: Probe, model: ModelState, indices: np.ndarray, labels: np.ndarray, seen: int
) -> Params:
    """Estimate the diagonal of the Fisher information from the images' own labels.

    Args:
      probe: reads the images.
      model: at whose parameters it is estimated.
      indices: [n] records.
      labels: position of every record.
      seen: number of classes that compete.
    """
    total = jax.tree.map(jnp.zeros_like, model.params)
    for start in range(0, len(indices), BATCH):
        part = indices[start : start + BATCH]
        weights = np.zeros(BATCH, np.float32)
        weights[: len(part)] = 1  # a short batch is padded, so that there is one shape
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
        logits = infer(network, variables, image[None]).logits
        prior = jnp.where(jnp.arange(logits.shape[-1]) < seen, 0.0, -jnp.inf)
        return losses.softmax_cross_entropy(logits, label[None], prior)[0]

    gradients = jax.vmap(jax.grad(log_likelihood), (None, 0, 0))(model.params, images, labels)
    return jax.tree.map(lambda g: jnp.tensordot(weights, jnp.square(g), axes=1), gradients)


_squared_gradients = jax.jit(_squared_gradients, static_argnums=0)
