"""A table of every loss with arguments, for the tests of what all losses promise."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from bsce_jax import losses

Loss = Callable[..., Any]

B, C = 4, 5
OLD = np.array([True, True, True, False, False])
SEEN = np.array([True, True, False, True, True])
COUNTS = np.array([20, 20, 0, 500, 300])
PRIOR = np.array([3.0, 3.0, -np.inf, 6.2, 5.7], np.float32)
TASKS = np.array([0, 1, 0, 0, 1])
LABELS = np.array([0, 3, 1, 4])

_rng = np.random.default_rng(0)
LOGITS = _rng.normal(size=(B, C)).astype(np.float32)
TEACHER = _rng.normal(size=(B, C)).astype(np.float32)
COSINES = np.tanh(LOGITS)
MAPS = [_rng.normal(size=(B, 3, 2, 2)).astype(np.float32) for _ in range(4)]
ROW_PRIOR = PRIOR + np.arange(B, dtype=np.float32)[:, None] * OLD
ROW_SEEN = np.array([SEEN, SEEN & OLD, SEEN, SEEN & ~OLD])


def pod(s1: jax.Array, s2: jax.Array, t1: jax.Array, t2: jax.Array) -> jax.Array:
    return losses.pod_spatial([s1, s2], [t1, t2])


def pixel(s1: jax.Array, s2: jax.Array, t1: jax.Array, t2: jax.Array) -> jax.Array:
    return losses.pod_pixel([s1, s2], [t1, t2])


# name: (the loss as a function of batched arrays, those arrays). The first array is the student's.
CASES: dict[str, tuple[Loss, tuple[np.ndarray, ...]]] = {
    "cross_entropy": (losses.softmax_cross_entropy, (LOGITS, LABELS)),
    "prior": (lambda z, y: losses.softmax_cross_entropy(z, y, PRIOR), (LOGITS, LABELS)),
    "row_prior": (losses.softmax_cross_entropy, (LOGITS, LABELS, ROW_PRIOR)),
    "balanced": (
        lambda z, y: losses.balanced_softmax_cross_entropy(z, y, COUNTS),
        (LOGITS, LABELS),
    ),
    "separated": (
        lambda z, y: losses.separated_softmax_cross_entropy(z, y, OLD, log_prior=PRIOR),
        (LOGITS, LABELS),
    ),
    "binary": (lambda z, y: losses.binary_cross_entropy(z, y, SEEN), (LOGITS, LABELS)),
    "binary_distillation": (
        lambda z, t: losses.binary_distillation(z, t, where=SEEN),
        (LOGITS, TEACHER),
    ),
    "distillation": (lambda z, t: losses.distillation(z, t, where=SEEN), (LOGITS, TEACHER)),
    "row_distillation": (
        lambda z, t, where: losses.distillation(z, t, where=where),
        (LOGITS, TEACHER, ROW_SEEN),
    ),
    "taskwise": (
        lambda z, t: losses.taskwise_distillation(z, t, TASKS, SEEN),
        (LOGITS, TEACHER),
    ),
    "less_forget": (losses.less_forget, (LOGITS, TEACHER)),
    "margin_ranking": (
        lambda c, y: losses.margin_ranking(c, y, OLD & SEEN, seen=SEEN),
        (COSINES, LABELS),
    ),
    "pod_spatial": (pod, tuple(MAPS)),
    "pod_pixel": (pixel, tuple(MAPS)),
    "nca": (lambda s, y: losses.nca(s, y, scale=3.0, log_prior=PRIOR), (COSINES, LABELS)),
    "nca_quirks": (
        lambda s, y: losses.nca(s, y, scale=3.0, log_prior=PRIOR, reference_quirks=True),
        (COSINES, LABELS),
    ),
}


def total_grad(loss: Loss, argnum: int | tuple[int, ...] = 0) -> Loss:
    """Make the gradient of the loss summed over the batch, as NumPy arrays."""
    gradient = jax.jit(jax.grad(lambda *args: loss(*args).sum(), argnums=argnum))
    return lambda *args: jax.device_get(gradient(*args))


@functools.cache
def by_example(name: str) -> Loss:
    """Make the loss of a case and its gradient, by `vmap` over the examples, as NumPy arrays."""
    loss = jax.jit(jax.vmap(jax.value_and_grad(CASES[name][0])))
    return lambda *args: jax.device_get(loss(*args))


def arguments(dtype: Any = np.float32) -> dict[str, list[np.ndarray]]:
    """Give the arguments of every case, those that are numbers in `dtype`."""
    return {
        name: [x.astype(dtype) if x.dtype == np.float32 else x for x in args]
        for name, (_, args) in CASES.items()
    }


@jax.jit
def everything(args: dict[str, list[jax.Array]]) -> dict[str, tuple[jax.Array, ...]]:
    """Compute every case's loss and gradient, and the gradients of what can be learned."""
    results: dict[str, tuple[jax.Array, ...]] = {}
    for name, (loss, _) in CASES.items():

        def total(*args: jax.Array, loss: Loss = loss) -> tuple[jax.Array, jax.Array]:
            return loss(*args).sum(), loss(*args)

        gradient, value = jax.grad(total, has_aux=True)(*args[name])
        results[name] = (value, gradient)

    cosines, labels = args["nca"]

    def learned(counts: jax.Array, scale: jax.Array) -> jax.Array:
        prior = losses.class_log_prior(counts, seen=SEEN, floor=0.5, tau=0.5)
        return losses.nca(cosines, labels, scale=scale, log_prior=prior).sum()

    results["learned"] = jax.grad(learned, argnums=(0, 1))(COUNTS.astype(np.float32), 3.0)
    return results
