"""ACIL and DS-AL: a frozen backbone and heads that are solved and not trained."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from bsce_jax.fields import field
from bsce_jax.methods import METHODS, Method, ModelState, Params, Probe, Stage, TaskInfo
from bsce_jax.streams import Purpose, generator

BATCH = 4096  # images whose expanded features are in memory at a time
# The regression's scores are about 1 for the right class and 0 for the others, and their softmax
# nearly uniform. With this factor the probability of the prediction is about as high as the
# accuracy, on digits and on CIFAR-100.
SCALE = 10.0
Activation = Callable[[Any], Any]


def relu(x: Any) -> Any:
    """Rectify numpy's or jax's arrays."""
    return x * (x > 0)


@METHODS.register("acil")
@dataclasses.dataclass(frozen=True)
class ACIL(Method):
    """ACIL (Zhuang et al. 2022): a frozen backbone and a head by recursive ridge regression.

    After the first task the backbone is frozen. A feature f is expanded to z = relu(f P), where P
    is random. The head is the ridge regression of the one-hot labels on z over all images of all
    tasks, which needs only the sums of z^T z and of z^T y. So the result does not depend on how
    the classes are split into later tasks. The sums are float64, kept as two float32 numbers: with
    `width` W and C classes they take 8 W (W + C) bytes, which is memory of the past too.

    `config.loss` trains the first task.
    """

    memory: ClassVar[bool] = False
    width: int = field(2048, "columns of the random expansion", least=1, most=16_384)
    gamma: float = field(0.1, "strength of the ridge", above=0.0)
    balance: bool = field(False, "weigh the images so that all classes count alike")

    def stages(self, main: Stage, task: int) -> tuple[Stage, ...]:
        return (main,) if task == 0 else (dataclasses.replace(main, name="ridge", epochs=0),)

    def init_extra(self, params: Params, num_classes: int) -> dict[str, Any]:
        dim = params["head"]["weight"].shape[-1]
        expansion = {"projection": jnp.zeros((dim, self.width)), "unit": jnp.zeros(())}
        return {"expansion": expansion, "main": self._empty(num_classes)}

    def end_training(self, model: ModelState, task: TaskInfo, probe: Probe) -> ModelState:
        extra = dict(model.extra)
        records = [task.records(c) for c in task.new]
        counts = np.array([len(r) for r in records])
        if task.old == 0:
            dim = extra["expansion"]["projection"].shape[0]
            rng = generator(task.seed, Purpose.EXPANSION, 0)
            # as torch initialises a linear layer, in the code of the authors
            random = rng.uniform(-1, 1, (dim, self.width)) / np.sqrt(dim)
            unit = jnp.asarray(counts.mean(), jnp.float32)
            extra["expansion"] = {"projection": jnp.asarray(random, jnp.float32), "unit": unit}
        projection, unit = (extra["expansion"][name] for name in ("projection", "unit"))
        features = probe.features(model, np.concatenate(records)).astype(np.float64)
        weights = float(unit) / counts if self.balance else np.ones(len(counts))
        batches = _Batches(
            features,
            np.asarray(projection, np.float64),
            np.repeat(np.asarray(task.new), counts),
            np.repeat(weights, counts),
        )
        return dataclasses.replace(model, extra=self._solve(extra, batches, task))

    def predict(self, logits: jax.Array, features: jax.Array, extra: dict[str, Any]) -> jax.Array:
        projected = _product(features, extra["expansion"]["projection"])
        return jnp.where(jnp.isneginf(logits), logits, SCALE * self._scores(projected, extra))

    def _solve(self, extra: dict[str, Any], batches: "_Batches", task: TaskInfo) -> dict[str, Any]:
        """Add a task to the sums, and solve."""
        classes = len(extra["main"]["ridge"])
        targets = lambda z, labels: np.eye(classes)[labels]
        return {**extra, "main": self._fit(extra["main"], relu, batches, targets)}

    def _scores(self, projected: jax.Array, extra: dict[str, Any]) -> jax.Array:
        """Regress the labels, [n, W] to [n, C]."""
        return _product(relu(projected), extra["main"]["ridge"].T)

    def _empty(self, num_classes: int) -> dict[str, jax.Array]:
        """Return a stream without images: the sums in two parts, and the head [C, W]."""
        return {
            "gram": jnp.zeros((self.width, self.width, 2)),
            "moment": jnp.zeros((num_classes, self.width, 2)),
            "ridge": jnp.zeros((num_classes, self.width)),
        }

    def _fit(
        self,
        stream: dict[str, Any],
        activation: Activation,
        batches: "_Batches",
        targets: Callable[[np.ndarray, np.ndarray], np.ndarray],
    ) -> dict[str, Any]:
        """Add images to the sums of a stream, and solve for its head.

        Args:
          stream: see `_empty`.
          activation: makes z of f P.
          batches: of the images.
          targets: (f P [n, W], labels [n]) -> [n, C].
        """
        gram, moment = (_join(stream[name]) for name in ("gram", "moment"))
        for projected, labels, weights in batches:
            root = np.sqrt(weights)[:, None]
            z = activation(projected) * root
            gram += z.T @ z  # of a matrix with itself, numpy computes one triangle
            moment += (targets(projected, labels) * root).T @ z
        ridge = np.linalg.solve(gram + self.gamma * np.eye(self.width), moment.T).T
        return {
            "gram": _split(gram),
            "moment": _split(moment),
            "ridge": jnp.asarray(ridge, jnp.float32),
        }


@METHODS.register("ds_al")
@dataclasses.dataclass(frozen=True)
class DSAL(ACIL):
    """DS-AL (Zhuang et al. 2024): ACIL and a second head that fits what is left by the first.

    The second head is a ridge regression on tanh(f P). Its targets are the residuals of the first
    head after a task, for the columns of that task's classes alone. So it depends on the tasks.
    """

    ratio: float = field(0.6, "weight of the second head's scores", least=0.0)

    def init_extra(self, params: Params, num_classes: int) -> dict[str, Any]:
        return {**super().init_extra(params, num_classes), "second": self._empty(num_classes)}

    def _solve(self, extra: dict[str, Any], batches: "_Batches", task: TaskInfo) -> dict[str, Any]:
        extra = super()._solve(extra, batches, task)
        ridge = np.asarray(extra["main"]["ridge"], np.float64)
        new = np.isin(np.arange(len(ridge)), task.new)

        def residuals(projected: np.ndarray, labels: np.ndarray) -> np.ndarray:
            left = np.eye(len(ridge))[labels] - relu(projected) @ ridge.T
            return np.where(new, left, 0.0)

        return {**extra, "second": self._fit(extra["second"], np.tanh, batches, residuals)}

    def _scores(self, projected: jax.Array, extra: dict[str, Any]) -> jax.Array:
        second = _product(jnp.tanh(projected), extra["second"]["ridge"].T)
        return super()._scores(projected, extra) + self.ratio * second


@dataclasses.dataclass(frozen=True)
class _Batches:
    """Images in batches.

    Attributes:
      features: f [n, D] float64.
      projection: P [D, W] float64.
      labels: [n].
      weights: [n] float64.
    """

    features: np.ndarray
    projection: np.ndarray
    labels: np.ndarray
    weights: np.ndarray

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield f P [BATCH, W], labels and weights; the last batch may be shorter."""
        for start in range(0, len(self.labels), BATCH):
            part = slice(start, start + BATCH)
            yield self.features[part] @ self.projection, self.labels[part], self.weights[part]


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.dot(a, b, precision=jax.lax.Precision.HIGHEST)


def _split(numbers: np.ndarray) -> jax.Array:
    """Split float64 numbers into two float32 ones, on a last axis; their sum is nearly exact."""
    high = numbers.astype(np.float32)
    return jnp.stack([jnp.asarray(high), jnp.asarray(numbers - high, jnp.float32)], axis=-1)


def _join(parts: jax.Array) -> np.ndarray:
    return np.asarray(parts, np.float64).sum(axis=-1)
