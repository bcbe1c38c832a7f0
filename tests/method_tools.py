"""What the tests of methods share: a batch of six classes, and slow float64 versions in numpy."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bsce_jax import methods
from bsce_jax.methods import ModelState, Step, TaskContext, TaskInfo
from bsce_jax.methods.criterion import CRITERIA
from bsce_jax.models import HEADS, Classifier, Outputs

# Six classes: 0, 1 and 2 are old, of two tasks; 3 and 4 are new; 5 is not seen yet.
C, D = 6, 2
OLD = np.array([True, True, True, False, False, False])
NEW = np.array([False, False, False, True, True, False])
SEEN = OLD | NEW
TASKS = np.array([0, 0, 1, 2, 2, 3])
COUNTS = np.array([2.0, 2.0, 2.0, 6.0, 4.0, 0.0])
RHO = 3 / 5

# Two exemplars, two new images and one place of padding, which no expected value looks at.
LABELS = np.array([0, 2, 3, 4, 3])
WEIGHTS = np.array([1.0, 1.0, 1.0, 1.0, 0.0])
REPLAYED = np.zeros(5, bool)
REAL = slice(4)

_rng = np.random.default_rng(0)
STUDENT = _rng.normal(size=(5, C)) * 2
TEACHER = _rng.normal(size=(5, C)) * 2
FEATURES = _rng.normal(size=(5, D))
TEACHER_FEATURES = _rng.normal(size=(5, D))
WEIGHT = _rng.normal(size=(C, D))
BIAS = _rng.normal(size=C)

Array = np.ndarray


def f32(x: Any) -> jax.Array:
    return jnp.asarray(np.float32(x))  # converted by numpy: nothing to compile


class Flat(nn.Module):
    """A backbone with nothing to learn: the pixels are the features."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        return images.reshape(len(images), -1), ()


KEY = jax.random.key(7)
LINEAR = Classifier(Flat(), HEADS["linear"](C))
HEAD = {"head": {"weight": f32(WEIGHT), "bias": f32(BIAS)}}


@dataclasses.dataclass
class FakeProbe:
    """Looks features, logits and images up, whatever the model."""

    table: Array
    network: Classifier = LINEAR
    initial: ModelState = dataclasses.field(default_factory=lambda: model())

    def images(self, indices: Array) -> jax.Array:
        return f32(self.table[indices])[:, None, :, None]

    def features(self, model: ModelState, indices: Array, mirrored: bool = False) -> Array:
        return self.table[indices].astype(np.float32)

    def logits(self, model: ModelState, indices: Array) -> Array:
        return self.table[indices].astype(np.float32)


def model(params: Any = HEAD, **extra: Any) -> ModelState:
    return ModelState(params, {}, extra)


def context(
    old: Array = OLD,
    new: Array = NEW,
    prior: Array | None = None,
    tasks: Array = TASKS,
    counts: Array | None = None,
) -> TaskContext:
    prior = np.where(old | new, 0.0, -np.inf) if prior is None else prior
    return TaskContext(
        old=jnp.asarray(old),
        new=jnp.asarray(new),
        counts=f32(np.where(old | new, 1.0, 0.0) if counts is None else counts),
        log_prior=f32(prior),
        task_of_class=jnp.asarray(tasks),
        train_rows=f32(np.ones(len(old))),
    )


def outputs(
    logits: Array, features: Array, maps: tuple[Array, ...] = (), scale: float = 1.0
) -> Outputs:
    arrays = [f32(x) for x in (logits, scale * logits, scale)]
    return Outputs(f32(features), tuple(f32(m) for m in maps), *arrays)


def make_step(
    *,
    student: Outputs | None = None,
    teacher: Outputs | None = None,
    labels: Array = LABELS,
    weights: Array = WEIGHTS,
    task: TaskContext | None = None,
    loss: str = "cross_entropy",
    params: Any = HEAD,
    extra: dict[str, Any] | None = None,
    previous: ModelState | None = None,
    network: Classifier = LINEAR,
    replayed: Array | None = None,
    **options: Any,
) -> Step:
    return Step(
        student=outputs(STUDENT, FEATURES) if student is None else student,
        teacher_outputs=outputs(TEACHER, TEACHER_FEATURES) if teacher is None else teacher,
        labels=jnp.asarray(labels),
        weights=f32(weights),
        task=context() if task is None else task,
        params=params,
        extra=extra or {},
        teacher_state=model(params) if previous is None else previous,
        key=KEY,
        criterion=CRITERIA[loss](**options),
        network=network,
        replayed=jnp.asarray(REPLAYED if replayed is None else replayed),
    )


def info(labels: list[int] | Array, old: int, seen: int, **changes: Any) -> TaskInfo:
    """Records in order; all are trained on unless told, and the tasks are those of `TASKS`."""
    labels = np.asarray(labels)
    given = dict(
        index=int(TASKS[old]),
        old=old,
        seen=seen,
        seed=0,
        labels=labels,
        train=np.arange(len(labels)),
        validation=np.array([], int),
        balanced=False,
    )
    return TaskInfo(**{**given, **changes})


def log_softmax(scores: Array, among: Array) -> Array:
    scores = np.where(among, scores, -np.inf)
    peak = scores.max(axis=-1, keepdims=True)
    return scores - peak - np.log(np.exp(scores - peak).sum(axis=-1, keepdims=True))


def cross_entropy(scores: Array, labels: Array, among: Array = SEEN) -> Array:
    return -log_softmax(scores, among)[np.arange(len(labels)), labels]


def divergence(student: Array, teacher: Array, among: Array = OLD, temperature: float = 2) -> Array:
    """T^2 KL(teacher || student) over some classes, term by term."""
    total = np.zeros(len(student))
    q, p = log_softmax(student / temperature, among), log_softmax(teacher / temperature, among)
    for j in np.flatnonzero(among):
        total += np.exp(p[:, j]) * (p[:, j] - q[:, j])
    return temperature**2 * total


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def terms_of(method: methods.Method, step: Step) -> dict[str, jax.Array]:
    return jax.jit(method.terms)(step)


def assert_terms(terms: dict[str, jax.Array], **expected: float) -> None:
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value, rtol=2e-5, atol=1e-6, err_msg=name)


CE = cross_entropy(STUDENT, LABELS)[REAL].mean()
KD = divergence(STUDENT, TEACHER)[REAL].mean()
