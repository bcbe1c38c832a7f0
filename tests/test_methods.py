"""What distinguishes each method, against numbers by hand and slow float64 versions in numpy."""

import ast
import dataclasses
import functools
import math
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bsce_jax import losses, methods
from bsce_jax.errors import UserError
from bsce_jax.methods import ModelState, Step, TaskContext, TaskInfo, method_class, method_names
from bsce_jax.methods.base import Finetuning
from bsce_jax.methods.bic import BiC, fit_bias
from bsce_jax.methods.classification import BalancedSoftmax, MetaBalancedSoftmax, loss_class
from bsce_jax.methods.eeil import EEIL
from bsce_jax.methods.ewc import BATCH, EWC, fisher
from bsce_jax.methods.fetril import FeTrIL
from bsce_jax.methods.icarl import ICaRL, LwFMC
from bsce_jax.methods.il2m import IL2M
from bsce_jax.methods.il_baseline import ILBaseline
from bsce_jax.methods.joint import Joint
from bsce_jax.methods.lucir import LUCIR
from bsce_jax.methods.lwf import LwF
from bsce_jax.methods.pass_ import PASS
from bsce_jax.methods.podnet import PODNet
from bsce_jax.methods.replay import Replay
from bsce_jax.methods.ss_il import SSIL
from bsce_jax.methods.wa import WA
from bsce_jax.models import HEADS, Classifier, Outputs
from bsce_jax.training.meta import initial_weight, learn_weight, weighted

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
REAL = slice(4)

_rng = np.random.default_rng(0)
STUDENT = _rng.normal(size=(5, C)) * 2
TEACHER = _rng.normal(size=(5, C)) * 2
FEATURES = _rng.normal(size=(5, D))
TEACHER_FEATURES = _rng.normal(size=(5, D))
WEIGHT = _rng.normal(size=(C, D))
BIAS = _rng.normal(size=C)

Array = np.ndarray


# each program runs once or twice: compiling it well would take longer than running it badly
quick_jit = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


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
        return np.float32(self.table[indices])

    def logits(self, model: ModelState, indices: Array) -> Array:
        return np.float32(self.table[indices])


def model(params: Any = HEAD, **extra: Any) -> ModelState:
    return ModelState(params, {}, extra)


def context(
    old: Array = OLD, new: Array = NEW, prior: Array | None = None, tasks: Array = TASKS
) -> TaskContext:
    prior = np.where(old | new, 0.0, -np.inf) if prior is None else prior
    return TaskContext(
        old=jnp.asarray(old),
        new=jnp.asarray(new),
        log_prior=f32(prior),
        task_of_class=jnp.asarray(tasks),
        train_backbone=f32(1),
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
        loss=loss_class(loss)(**options),
        model=network,
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
    return quick_jit(method.terms)(step)


def assert_terms(terms: dict[str, jax.Array], **expected: float) -> None:
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value, rtol=2e-5, atol=1e-6, err_msg=name)


CE = cross_entropy(STUDENT, LABELS)[REAL].mean()
KD = divergence(STUDENT, TEACHER)[REAL].mean()


# --- what every method shares ---------------------------------------------------------------


def test_mean_leaves_padding_out_and_is_zero_for_no_sample() -> None:
    mean, step = quick_jit(Step.mean), make_step()
    values = f32([1, 2, 3, 6, 100])
    assert mean(step, values) == 3
    assert mean(step, values, f32(OLD[LABELS])) == 1.5
    assert mean(step, values, f32([0, 0, 0, 1, 1])) == 6
    assert mean(step, values, f32(np.zeros(5))) == 0
    assert mean(make_step(weights=np.zeros(5)), values) == 0


def test_a_step_without_a_teacher_says_what_to_set() -> None:
    step = dataclasses.replace(make_step(), teacher_outputs=None, teacher_state=None)
    with pytest.raises(ValueError, match="teacher = True"):
        _ = step.teacher
    with pytest.raises(ValueError, match="teacher = True"):
        _ = step.previous


def test_classification_adds_the_prior_and_can_be_confined_to_some_classes() -> None:
    prior = np.array([0.7, 0.7, 0.7, 1.8, 1.4, -np.inf])
    classify = quick_jit(Step.classification)
    step = make_step(task=context(prior=prior))
    expected = cross_entropy(STUDENT + prior, LABELS)[REAL].mean()
    np.testing.assert_allclose(classify(step), expected, rtol=1e-5)
    on_teacher = cross_entropy(TEACHER + prior, LABELS)[REAL].mean()
    np.testing.assert_allclose(classify(step, step.teacher), on_teacher, rtol=1e-5)
    new_images = np.array([3, 4, 4, 3, 3])
    among_new = cross_entropy(STUDENT + prior, new_images, NEW)[REAL].mean()
    step = dataclasses.replace(step, labels=jnp.asarray(new_images))
    np.testing.assert_allclose(classify(step, among=NEW), among_new, rtol=1e-5)


def step_of(kind: type[methods.Method], unseen: float) -> tuple[methods.Method, Step]:
    """A batch for any method, in which only the unseen class depends on the second argument."""
    method = kind()
    network = Classifier(Flat(), HEADS[kind.head](C))
    shapes = jax.eval_shape(functools.partial(network.init, train=True), KEY, jnp.ones((1, D)))
    rng = np.random.default_rng(2)
    head = {name: rng.normal(size=x.shape) for name, x in shapes["params"]["head"].items()}
    head["weight"][5] = unseen
    params = {"head": {name: f32(value) for name, value in head.items()}}
    extra = method.init_extra(params, C)
    logits, teacher_logits = STUDENT.copy(), TEACHER.copy()
    logits[:, 5] = teacher_logits[:, 5] = unseen
    maps, teacher_maps = (np.float32(x).reshape(5, 2, 1, 1) for x in (FEATURES, TEACHER_FEATURES))
    return method, make_step(
        student=outputs(logits, FEATURES, (maps,)),
        teacher=outputs(teacher_logits, TEACHER_FEATURES, (teacher_maps,)),
        loss=kind.loss,
        params=params,
        extra=extra,
        previous=model(params, **extra),
        network=network,
    )


@pytest.mark.parametrize("name", method_names())
def test_terms_are_traceable_scalars_and_know_nothing_of_unseen_classes(name: str) -> None:
    method, step = step_of(method_class(name), unseen=0.5)
    traced = quick_jit(method.terms)  # fails if the shape of anything depends on the task
    terms = traced(step)
    for term in terms.values():
        assert (term.shape, term.dtype) == ((), jnp.float32)
        assert np.isfinite(term)
    _, step = step_of(method_class(name), unseen=50.0)
    assert_terms(traced(step), **{name: float(term) for name, term in terms.items()})


def test_replay_minimises_the_classification_loss_and_nothing_else() -> None:
    assert_terms(terms_of(Replay(), make_step()), classification=CE)


def test_joint_starts_every_task_from_the_initial_state() -> None:
    probe = FakeProbe(FEATURES)
    trained = model({"head": {"weight": jnp.zeros((C, D))}})
    assert Joint().begin_task(trained, info([3, 4], 3, 5), probe) is probe.initial


# --- classification losses ------------------------------------------------------------------


def test_the_prior_of_cross_entropy_is_zero_for_seen_classes_whatever_the_counts() -> None:
    prior = loss_class("cross_entropy")().log_prior(np.array([0, 2, 3, 6, 4, 9]), OLD, SEEN)
    np.testing.assert_array_equal(prior, [0, 0, 0, 0, 0, -np.inf])


def test_the_balanced_prior_is_tau_log_n() -> None:
    prior = BalancedSoftmax(tau=0.5).log_prior(COUNTS, OLD, SEEN)
    np.testing.assert_allclose(prior[:5], 0.5 * np.log([2, 2, 2, 6, 4]), rtol=1e-6)
    assert prior[5] == -np.inf
    loss = BalancedSoftmax()(outputs(STUDENT, FEATURES), LABELS, np.log(COUNTS + 1e-30), OLD)
    np.testing.assert_allclose(
        loss, cross_entropy(STUDENT + np.log(COUNTS + 1e-30), LABELS), rtol=1e-5
    )


@pytest.mark.parametrize("name", ["balanced_softmax", "meta_balanced_softmax", "balanced_nca"])
def test_the_relaxed_prior_is_relative_to_the_mean_new_count(name: str) -> None:
    counts = np.array([0.0, 0.0, 3.0, 6.0, 0.5, 0.0])
    prior = loss_class(name)(old_prior=0.4).log_prior(counts, OLD, SEEN)
    # 0.4 (6 + 0.5) / 2 = 1.3; an old class that has more keeps it, and a new one is never raised
    np.testing.assert_allclose(prior[:5], np.log([1.3, 1.3, 3, 6, 0.5]), rtol=1e-6)
    assert prior[5] == -np.inf


def test_without_memory_and_relaxed_prior_old_classes_have_no_probability() -> None:
    counts = np.where(OLD, 0.0, COUNTS)
    gone = BalancedSoftmax(old_prior=0.0).log_prior(counts, OLD, SEEN)
    np.testing.assert_array_equal(jnp.isfinite(gone), NEW)
    labels = np.array([3, 4, 3, 4, 3])
    student = outputs(STUDENT, FEATURES)
    expected = cross_entropy(STUDENT + np.log([1, 1, 1, 6, 4, 1]), labels, NEW)
    for eps in (0.0, 1e-12):
        loss = BalancedSoftmax(old_prior=eps)
        prior = loss.log_prior(counts, OLD, SEEN)
        np.testing.assert_allclose(loss(student, labels, prior, OLD), expected, rtol=1e-5)


def test_balanced_nca_is_nca_with_the_prior() -> None:
    cosines = np.tanh(STUDENT)
    for quirks in (False, True):
        loss = loss_class("balanced_nca")(margin=0.3, reference_quirks=quirks)
        prior = loss.log_prior(COUNTS, OLD, SEEN)
        got = loss(outputs(cosines, FEATURES, scale=4.0), LABELS, prior, OLD)
        options = {"scale": 4.0, "margin": 0.3, "log_prior": prior, "reference_quirks": quirks}
        expected = np.maximum(losses.nca(cosines, LABELS, **options), 0)
        np.testing.assert_allclose(got, expected, rtol=1e-6)
    got = losses.nca(cosines, LABELS, scale=4.0, margin=0.3, log_prior=prior)
    for i, y in enumerate(LABELS):
        rivals = [4 * cosines[i, j] + np.log(COUNTS[j]) for j in range(5) if j != y]
        own = 4 * (cosines[i, y] - 0.3) + np.log(COUNTS[y])
        np.testing.assert_allclose(got[i], np.log(np.exp(rivals).sum()) - own, rtol=1e-4)


def test_binary_cross_entropy_judges_each_seen_class_by_itself() -> None:
    loss = loss_class("binary_cross_entropy")()
    assert loss.one_vs_rest
    assert not loss_class("cross_entropy")().one_vs_rest
    prior = loss.log_prior(COUNTS, OLD, SEEN)
    got = loss(outputs(STUDENT, FEATURES), LABELS, prior, OLD)
    for i, y in enumerate(LABELS):
        p = sigmoid(STUDENT[i])
        expected = -sum(np.log(p[j] if j == y else 1 - p[j]) for j in range(5))
        np.testing.assert_allclose(got[i], expected, rtol=1e-5)


# --- distillation ---------------------------------------------------------------------------


def test_il_baseline_adds_the_terms_or_weighs_them_by_the_share_of_old_classes() -> None:
    assert_terms(terms_of(ILBaseline(), make_step()), classification=CE, distillation=KD)
    assert_terms(
        terms_of(ILBaseline(weighting="convex"), make_step()),
        classification=(1 - RHO) * CE,
        distillation=RHO * KD,
    )
    with pytest.raises(UserError, match="convex"):
        ILBaseline(weighting="convexe")


def test_the_prior_enters_classification_and_not_distillation() -> None:
    prior = np.log(np.where(SEEN, COUNTS, 1e-30))
    prior[5] = -np.inf
    step = make_step(task=context(prior=prior), loss="balanced_softmax")
    balanced = cross_entropy(STUDENT + prior, LABELS)[REAL].mean()
    assert abs(balanced - CE) > 0.02
    assert_terms(terms_of(ILBaseline(), step), classification=balanced, distillation=KD)


def test_lwf_without_exemplars_classifies_new_images_among_new_classes() -> None:
    labels = np.array([3, 4, 4, 3, 3])
    step = make_step(labels=labels, loss=LwF.loss)
    new_only = cross_entropy(STUDENT, labels, NEW)[REAL].mean()
    assert_terms(terms_of(LwF(weight=3.0), step), classification=new_only, distillation=3 * KD)


@pytest.mark.parametrize("kind", [ICaRL, LwFMC])
def test_with_sigmoids_labels_teach_new_classes_and_the_teacher_old_ones(
    kind: type[ICaRL],
) -> None:
    terms = terms_of(kind(), make_step(loss="binary_cross_entropy"))
    classification = distillation = 0.0
    for i in range(4):
        p, q = sigmoid(STUDENT[i]), sigmoid(TEACHER[i])
        for j in (3, 4):
            classification -= np.log(p[j] if LABELS[i] == j else 1 - p[j]) / 4
        for j in (0, 1, 2):
            distillation -= (q[j] * np.log(p[j]) + (1 - q[j]) * np.log(1 - p[j])) / 4
    assert_terms(terms, classification=classification, distillation=distillation)


def test_icarl_with_a_softmax_loss_distils_with_a_softmax() -> None:
    assert_terms(terms_of(ICaRL(), make_step()), classification=CE, distillation=KD)


def by_task() -> float:
    first, second = (OLD & (t == TASKS) for t in (0, 1))
    return sum(divergence(STUDENT, TEACHER, among)[REAL].mean() for among in (first, second))


def test_eeil_distils_head_by_head() -> None:
    assert abs(by_task() - KD) > 0.05
    assert_terms(terms_of(EEIL(), make_step()), classification=CE, distillation=by_task())


def test_ss_il_separates_the_softmax_and_distils_task_by_task() -> None:
    terms = terms_of(SSIL(), make_step(loss=SSIL.loss))
    sides = np.append(
        cross_entropy(STUDENT[:2], LABELS[:2], OLD), cross_entropy(STUDENT[2:4], LABELS[2:4], NEW)
    )
    assert_terms(terms, classification=sides.mean(), distillation=by_task())


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (EEIL(), Finetuning(30, 0.01, head_only=False)),
        (EEIL(finetune_epochs=0), None),
        (LUCIR(), None),
        (LUCIR(finetune_epochs=20), Finetuning(20, 0.01, head_only=True)),
        (PODNet(), Finetuning(20, 0.05, head_only=True)),
        (PODNet(finetune_epochs=0), None),
        (SSIL(), None),
        (ILBaseline(), None),
    ],
)
def test_the_balanced_stage_can_be_left_out(
    method: methods.Method, expected: Finetuning | None
) -> None:
    assert method.finetuning == expected


# --- corrections of the head ----------------------------------------------------------------


def test_wa_scales_the_new_vectors_alone_to_the_mean_norm_of_the_old() -> None:
    rows = [[3.0, 4.0], [0.0, 1.0], [0.0, 3.0], [6.0, 8.0], [0.0, 2.0], [7.0, 7.0]]
    head = {"weight": jnp.array(rows), "bias": jnp.arange(6.0)}
    aligned = WA().end_training(model({"head": head}), info([3, 4], 3, 5), FakeProbe(FEATURES))
    # old norms 5, 1, 3: mean 3; new norms 10, 2: mean 6; gamma 1/2
    expected = [*rows[:3], [3.0, 4.0], [0.0, 1.0], rows[5]]
    np.testing.assert_allclose(aligned.params["head"]["weight"], expected, rtol=1e-6)
    np.testing.assert_array_equal(aligned.params["head"]["bias"], head["bias"])


def test_wa_leaves_the_first_task_alone_and_weighs_by_rho() -> None:
    before = model()
    assert WA().end_training(before, info([0, 1], 0, 2), FakeProbe(FEATURES)) is before
    assert_terms(terms_of(WA(), make_step()), classification=(1 - RHO) * CE, distillation=RHO * KD)


def biased(alpha: float, beta: float, count: int = 8000) -> tuple[Array, Array]:
    """Logits of the five seen classes, and labels drawn from their corrected softmax."""
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(count, 5)) * 2
    corrected = np.where(NEW[:5], alpha * logits + beta, logits)
    gumbel = rng.gumbel(size=corrected.shape)
    return logits, (corrected + gumbel).argmax(axis=1)


def test_bic_finds_the_bias_that_was_put_in() -> None:
    logits, labels = biased(0.6, -1.2)
    alpha, beta = fit_bias(f32(logits), labels, NEW[:5])
    assert abs(alpha - 0.6) < 0.05
    assert abs(beta + 1.2) < 0.1
    assert math.hypot(*slope(logits, labels, alpha, beta)) < 1e-3


def slope(logits: Array, labels: Array, alpha: float, beta: float) -> tuple[float, float]:
    """The derivatives of BiC's objective by alpha and beta, a sample's share, in float64."""
    new = NEW[:5]
    corrected = np.where(new, alpha * logits + beta, logits)
    wrong = np.exp(log_softmax(corrected, np.ones(5, bool))) - np.eye(5)[labels]
    n = len(labels)
    by_alpha = (wrong * logits)[:, new].sum() / n + (alpha - 1) / n
    return by_alpha, wrong[:, new].sum() / n + beta / n


def test_bic_writes_the_bias_of_the_new_classes_only() -> None:
    logits, labels = biased(0.6, -1.2)
    table = np.column_stack([logits, np.full(len(logits), 40.0)])  # the unseen class is cut off
    held_out = np.arange(3, len(labels))
    task = info(labels, 3, 5, train=np.arange(3), validation=held_out)
    before = model(
        alpha=jnp.array([1.0, 0.5, 1.0, 1.0, 1.0, 1.0]),
        beta=jnp.array([0.0, 0.3, 0.0, 0.0, 0.0, 0.0]),
    )
    after = BiC().end_training(before, task, FakeProbe(table)).extra
    corrected = logits[held_out].copy()
    corrected[:, 1] = 0.5 * corrected[:, 1] + 0.3  # earlier tasks stay corrected
    alpha, beta = fit_bias(f32(corrected), labels[held_out], NEW[:5])
    np.testing.assert_allclose(after["alpha"], [1, 0.5, 1, alpha, alpha, 1], rtol=1e-3)
    np.testing.assert_allclose(after["beta"], [0, 0.3, 0, beta, beta, 0], rtol=1e-3)
    nothing_held_out = info(labels, 0, 3)
    assert BiC().end_training(before, nothing_held_out, FakeProbe(table)) is before


def test_bic_corrects_student_and_teacher_and_predictions() -> None:
    alpha = np.array([1.0, 1.0, 0.5, 1.0, 1.0, 1.0])
    beta = np.array([0.0, 0.0, -2.0, 0.0, 0.0, 0.0])
    then = {"alpha": f32(alpha - 0.25), "beta": f32(beta + 1)}
    now = {"alpha": f32(alpha), "beta": f32(beta)}
    terms = terms_of(BiC(), make_step(extra=now, previous=model(**then)))
    student = alpha * STUDENT + beta
    teacher = (alpha - 0.25) * TEACHER + beta + 1
    assert_terms(
        terms,
        classification=(1 - RHO) * cross_entropy(student, LABELS)[REAL].mean(),
        distillation=RHO * divergence(student, teacher)[REAL].mean(),
    )
    np.testing.assert_allclose(BiC().predict(f32(STUDENT), now), student, rtol=1e-5)
    unseen = jnp.array([[1.0, 1.0, 1.0, 1.0, 1.0, -jnp.inf]])
    assert BiC().predict(unseen, BiC().init_extra({}, C))[0, 5] == -jnp.inf
    assert BiC(validation=0.2).holdout == 0.2


# --- cosine heads ---------------------------------------------------------------------------


def test_lucir_weighs_less_forget_by_the_root_of_old_per_new() -> None:
    position = np.arange(60)
    step = make_step(
        student=outputs(np.zeros((1, 60)), np.array([[1.0, 0.0]])),
        teacher=outputs(np.zeros((1, 60)), np.array([[0.0, 2.0]])),  # at a right angle: loss 1
        labels=np.array([55]),
        weights=np.ones(1),
        task=context(position < 50, position >= 50, tasks=position // 10),
    )
    assert_terms(
        terms_of(LUCIR(), step),
        classification=math.log(60),
        less_forget=5 * math.sqrt(5),
        ranking=0.0,
    )


COSINES = np.array(
    [
        [0.8, 0.1, 0.2, 0.6, 0.4, 0.99],  # class 0: (0.5 - 0.8 + 0.6 and + 0.4) / 2 = 0.2
        [0.1, 0.1, 0.9, 0.1, -0.1, 0.99],  # class 2: far enough
        [0.9, 0.9, 0.9, 0.1, 0.2, 0.99],  # new images are not ranked
        [0.9, 0.9, 0.9, 0.1, 0.2, 0.99],
        [0.9, 0.9, 0.9, 0.1, 0.2, 0.99],
    ]
)


def test_lucir_ranks_unscaled_cosines_and_averages_over_exemplars() -> None:
    step = make_step(student=outputs(COSINES, FEATURES, scale=9.0))
    assert_terms({"ranking": terms_of(LUCIR(), step)["ranking"]}, ranking=(0.2 + 0.0) / 2)
    assert_terms({"ranking": terms_of(LUCIR(ranking=4.0), step)["ranking"]}, ranking=0.4)
    new_only = dataclasses.replace(step, weights=jnp.array([0.0, 0.0, 1.0, 1.0, 1.0]))
    assert terms_of(LUCIR(), new_only)["ranking"] == 0


def test_lucir_imprints_the_mean_direction_at_the_mean_length_of_old_vectors() -> None:
    rows = np.array([[3.0, 4.0], [0.0, 1.0], [0.0, 3.0], [6.0, 8.0], [0.0, 2.0], [7.0, 7.0]])
    features = np.array([[5.0, 0.0], [0.0, 0.1], [-2.0, 0.0], [-7.0, 0.0], [9.0, 9.0]])
    before = model({"head": {"weight": f32(rows), "scale": f32(2)}})
    task = info([3, 3, 4, 4, 0], 3, 5)
    head = LUCIR().begin_task(before, task, FakeProbe(features)).params["head"]
    # the lengths of the features do not count, so class 3 lies between (1, 0) and (0, 1)
    half = 3 / math.sqrt(2)
    expected = [*rows[:3], [half, half], [-3.0, 0.0], rows[5]]
    np.testing.assert_allclose(head["weight"], expected, rtol=1e-5, atol=1e-6)
    assert head["scale"] == 2
    first = info([0, 1], 0, 2)
    assert LUCIR().begin_task(before, first, FakeProbe(features)) is before


def test_podnet_distils_pooled_maps_scaled_by_growth() -> None:
    def image(rows: list[list[float]]) -> Array:
        return np.tile(np.array(rows)[None, :, :, None], (5, 1, 1, 1))

    # squares 1 0 / 0 1: sums over height 1 1 and over width 1 1, each 1/2 after normalising
    # squares 4 0 / 0 0: 4 0 and 4 0, so 1/sqrt(2) 0 and 1/sqrt(2) 0
    apart = math.sqrt(2 * (1 / math.sqrt(2) - 1 / 2) ** 2 + 2 * (1 / 2) ** 2)
    same, other = image([[1.0, 0.0], [0.0, -1.0]]), image([[2.0, 0.0], [0.0, 0.0]])
    flat = np.tile([[1.0, 0.0]], (5, 1)), np.tile([[3.0, 4.0]], (5, 1))
    step = make_step(
        student=outputs(COSINES, flat[0], (same, same)),
        teacher=outputs(COSINES, flat[1], (other, same)),
        loss=PODNet.loss,
    )
    growth = math.sqrt(5 / 2)
    prior = np.log(SEEN + 1e-30)
    nca = losses.nca(COSINES, LABELS, scale=1.0, log_prior=prior, reference_quirks=True)
    assert_terms(
        terms_of(PODNet(), step),
        classification=float(nca[REAL].mean()),
        pod_spatial=3 * growth * apart / 2,  # the mean of two stages, the second the same in both
        pod_flat=1 * growth * (1 - 0.6),
    )


def test_podnet_clamps_the_gradients() -> None:
    clamp = PODNet().gradient_transform()
    gradients = {"w": jnp.array([-7.0, -5.0, 0.5, 6.0])}
    clamped, _ = clamp.update(gradients, clamp.init(gradients))
    np.testing.assert_array_equal(clamped["w"], [-5, -5, 0.5, 5])


def test_podnet_imprints_ten_kmeans_centres_a_class() -> None:
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(C, 10, D))
    # ten tight bunches of directions for class 3; class 4 is anything
    angles = 2 * np.pi * np.arange(10) / 10
    bunches = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    class3 = np.repeat(bunches, 6, axis=0) * rng.uniform(0.5, 3, size=(60, 1))
    features = np.concatenate([class3, rng.normal(size=(50, D))])
    task = info([3] * 60 + [4] * 50, 3, 5)
    before = model({"head": {"weight": f32(rows), "scale": f32(1)}})
    after = PODNet().begin_task(before, task, FakeProbe(features))
    weight = np.asarray(after.params["head"]["weight"])
    assert weight.shape == (C, 10, D)
    np.testing.assert_array_equal(weight[~NEW], np.float32(rows)[~NEW])
    length = np.linalg.norm(rows[:3], axis=-1).mean()
    np.testing.assert_allclose(np.linalg.norm(weight[3:5], axis=-1), length, rtol=1e-4)
    near = weight[3] / length @ bunches.T  # each centre lies on one bunch
    np.testing.assert_allclose(near.max(axis=1), 1, atol=0.06)
    again = PODNet().begin_task(before, task, FakeProbe(features))
    np.testing.assert_array_equal(again.params["head"]["weight"], weight)


# --- penalties and statistics ---------------------------------------------------------------


def squared_gradients(x: Array, labels: Array, seen: int) -> dict[str, Array]:
    """Of log p(label) by the weight and the bias of the linear head, [n, ...], sample by sample."""
    weights, biases = [], []
    for image, label in zip(x, labels, strict=True):
        p = np.exp(log_softmax(WEIGHT @ image + BIAS, np.arange(C) < seen))
        slope = np.eye(C)[label] - p
        weights.append(np.outer(slope, image) ** 2)
        biases.append(slope**2)
    return {"weight": np.array(weights), "bias": np.array(biases)}


def test_ewc_estimates_the_fisher_information_sample_by_sample() -> None:
    rng = np.random.default_rng(4)
    x, labels = rng.normal(size=(BATCH + 9, D)), rng.integers(5, size=BATCH + 9)
    expected = squared_gradients(x, labels, seen=5)
    got = fisher(FakeProbe(x), model(), np.arange(len(x)), labels, 5)["head"]
    for name in ("weight", "bias"):
        np.testing.assert_allclose(got[name], expected[name].mean(axis=0), rtol=1e-4, atol=1e-7)
    assert not got["bias"][5]
    assert not got["weight"][5].any()


def test_ewc_accumulates_with_decay_over_at_most_some_images() -> None:
    rng = np.random.default_rng(5)
    x, labels = rng.normal(size=(12, D)), np.repeat([0, 1, 3, 4], 3)
    probe = FakeProbe(x)
    method = EWC(decay=0.5)
    state = model(**method.init_extra(HEAD, C))
    first = info(labels, 0, 2, train=np.arange(6))
    second = info(labels, 2, 5, train=np.arange(6, 12))
    state = method.end_training(state, first, probe)
    state = method.end_training(state, second, probe)
    parts = [squared_gradients(x[:6], labels[:6], 2), squared_gradients(x[6:], labels[6:], 5)]
    for name in ("weight", "bias"):
        then, now = (p[name].mean(axis=0) for p in parts)
        np.testing.assert_allclose(
            state.extra["fisher"]["head"][name], 0.5 * then + now, rtol=1e-4, atol=1e-7
        )
    one = EWC(samples=1)
    start = model(**one.init_extra(HEAD, C))
    alone = one.end_training(start, second, probe).extra["fisher"]["head"]["bias"]
    distances = np.abs(parts[1]["bias"] - alone).max(axis=1)
    assert distances.min() < 1e-6


def test_ewc_holds_the_weights_that_mattered() -> None:
    information = {"weight": np.full((C, D), 2.0), "bias": np.array([0.5, 0, 0, 9, 0, 0])}
    then = {"weight": WEIGHT + 0.1, "bias": BIAS - np.arange(C)}
    tree = lambda head: {"head": {k: f32(v) for k, v in head.items()}}
    step = make_step(extra={"fisher": tree(information)}, previous=model(tree(then)))
    terms = terms_of(EWC(weight=10.0, fisher_max=3.0), step)
    # F stops at 3: 10/2 (12 * 2 * 0.1^2 + 0.5 * 0^2 + 3 * 3^2)
    assert_terms(terms, classification=CE, consolidation=5 * (0.24 + 27))


SCORES = np.array(
    [[0.5, 0.2, 0.3], [0.1, 0.6, 0.3], [0.1, 0.1, 0.8], [0.2, 0.2, 0.6]]
)  # of images of classes 0, 1, 2 and 2; class 2 is new


def after_il2m() -> ModelState:
    before = model(
        class_initial=jnp.array([0.9, 0.8, 1.0, 1.0]),
        class_now=jnp.array([0.9, 0.8, 1.0, 1.0]),
        confidence_initial=jnp.array([0.95, 0.95, 1.0, 1.0]),
        confidence_now=f32(0.95),
        new=jnp.array([True, True, False, False]),
    )
    table = np.column_stack([np.log(SCORES), np.full(4, 5.0)])  # the unseen class is cut off
    return IL2M().end_training(before, info([0, 1, 2, 2], 2, 3), FakeProbe(table))


def test_il2m_keeps_the_mean_scores_of_classes_and_of_the_network() -> None:
    extra = after_il2m().extra
    np.testing.assert_allclose(extra["class_initial"], [0.9, 0.8, 0.7, 1], rtol=1e-5)
    np.testing.assert_allclose(extra["class_now"], [0.5, 0.6, 0.7, 1], rtol=1e-5)
    np.testing.assert_allclose(extra["confidence_initial"], [0.95, 0.95, 0.7, 1], rtol=1e-5)
    np.testing.assert_allclose(extra["confidence_now"], 0.7, rtol=1e-5)
    np.testing.assert_array_equal(extra["new"], [False, False, True, False])


def test_il2m_rectifies_old_scores_of_what_is_taken_for_new() -> None:
    scores = np.array([[0.4, 0.1, 0.5, 0.0], [0.3, 0.25, 0.45, 0.0], [0.5, 0.1, 0.4, 0.0]])
    with np.errstate(divide="ignore"):
        logits = f32(np.log(scores))
    predict = quick_jit(IL2M().predict)
    got = np.asarray(predict(logits, after_il2m().extra))
    first, second = 0.9 / 0.5 * 0.7 / 0.95, 0.8 / 0.6 * 0.7 / 0.95
    expected = scores.copy()
    expected[:2] *= [first, second, 1, 1]
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert got.argmax(axis=1).tolist() == [0, 2, 0]
    start = IL2M().init_extra({}, 4)
    np.testing.assert_allclose(predict(logits, start), scores, rtol=1e-5)


# --- features of the method's own making ----------------------------------------------------


def test_pass_keeps_the_class_means_and_the_radius_of_the_first_task() -> None:
    method = PASS()
    features = np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0], [0.0, 8.0], [5.0, 5.0], [5.0, 105.0]])
    start = model(**method.init_extra(HEAD, C))
    task = info([0, 0, 1, 1, 2, 2], 0, 2, train=np.arange(4))
    first = method.end_training(start, task, FakeProbe(features))
    means = np.zeros((C, D))
    means[:2] = [[2, 0], [0, 5]]
    np.testing.assert_allclose(first.extra["prototypes"], means)
    # variances (1, 0) and (0, 9): means over the dimensions 0.5 and 4.5, over the classes 2.5
    np.testing.assert_allclose(first.extra["radius"], math.sqrt(2.5), rtol=1e-6)
    task = info([0, 0, 1, 1, 2, 2], 2, 3, train=np.arange(4, 6))
    second = method.end_training(first, task, FakeProbe(features))
    means[2] = [5, 55]
    np.testing.assert_allclose(second.extra["prototypes"], means)
    assert second.extra["radius"] == first.extra["radius"]


def test_pass_classifies_noisy_prototypes_of_old_classes_and_holds_the_features() -> None:
    prototypes = np.random.default_rng(6).normal(size=(C, D))
    extra = {"prototypes": f32(prototypes), "radius": f32(0.3)}
    step = make_step(extra=extra)
    key_class, key_noise = jax.random.split(step.key)
    drawn = jax.random.categorical(key_class, jnp.where(OLD, 0.0, -jnp.inf), shape=(5,))
    labels = np.asarray(drawn)
    assert OLD[labels].all()
    noisy = prototypes[labels] + 0.3 * np.asarray(jax.random.normal(key_noise, (5, D)))
    replayed = cross_entropy(noisy @ WEIGHT.T + BIAS, labels)[REAL].mean()
    distance = np.linalg.norm(FEATURES - TEACHER_FEATURES, axis=1)[REAL].mean()
    assert_terms(
        terms_of(PASS(prototype=2.0, distillation=3.0), step),
        classification=CE,
        prototype=2 * replayed,
        distillation=3 * distance,
    )


def test_pass_has_a_finite_gradient_where_nothing_has_moved() -> None:
    step = make_step(extra=PASS().init_extra(HEAD, C))

    def loss(features: jax.Array) -> jax.Array:
        student = dataclasses.replace(step.student, features=features)
        moved = dataclasses.replace(step, student=student)
        return PASS().terms(moved)["distillation"]

    np.testing.assert_array_equal(quick_jit(jax.grad(loss))(step.teacher.features), 0)


def test_fetril_stores_means_when_the_backbone_is_final() -> None:
    method = FeTrIL()
    features = np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0], [0.0, 8.0]])
    start = model(**method.init_extra(HEAD, C))
    first = info([0, 0, 1, 1], 0, 2)
    assert method.begin_task(start, first, FakeProbe(features)) is start  # not yet trained
    known = method.end_training(start, first, FakeProbe(features))
    means = np.zeros((C, D))
    means[:2] = [[2, 0], [0, 5]]
    np.testing.assert_allclose(known.extra["means"], means)
    second = info([2, 2, 2, 2], 2, 3)
    ready = method.begin_task(known, second, FakeProbe(features))  # frozen, and needed in training
    means[2] = [1, 2.5]
    np.testing.assert_allclose(ready.extra["means"], means)
    assert method.end_training(ready, second, FakeProbe(features)) is ready


def test_fetril_classifies_translated_features_of_the_frozen_backbone() -> None:
    means = np.random.default_rng(7).normal(size=(C, D))
    labels = np.array([3, 4, 4, 3, 3])
    # a prior would correct twice: it must not count
    task = context(prior=np.array([-9.0, -9.0, -9.0, 1.0, 2.0, -np.inf]))
    step = make_step(labels=labels, task=task, extra={"means": f32(means)})
    drawn = jax.random.categorical(step.key, jnp.where(OLD, 0.0, -jnp.inf), shape=(5,))
    pseudo = np.asarray(drawn)
    assert OLD[pseudo].all()
    translated = TEACHER_FEATURES - means[labels] + means[pseudo]
    plain = cross_entropy(TEACHER_FEATURES @ WEIGHT.T + BIAS, labels)[REAL].mean()
    moved = cross_entropy(translated @ WEIGHT.T + BIAS, pseudo)[REAL].mean()
    assert_terms(terms_of(FeTrIL(), step), classification=(1 - RHO) * plain, translated=RHO * moved)


# --- the learned weight of the old classes --------------------------------------------------

LEARN = quick_jit(learn_weight, static_argnums=(0, 1))
LEARNING_RATE = 0.5
BALANCED = np.random.default_rng(8).normal(size=(10, D)), np.repeat(np.arange(5), 2)


def looked_ahead(w: float | Array, prior: Array) -> float:
    """The plain loss on the balanced batch after an SGD step of the head under prior + w."""
    probability = np.exp(log_softmax(FEATURES @ WEIGHT.T + BIAS + prior + w * OLD, SEEN))
    slope = (probability - np.eye(C)[LABELS]) * WEIGHTS[:, None] / WEIGHTS.sum()
    weight = WEIGHT - LEARNING_RATE * slope.T @ FEATURES
    bias = BIAS - LEARNING_RATE * slope.sum(axis=0)
    features, labels = BALANCED
    return cross_entropy(features @ weight.T + bias, labels).mean()


@pytest.mark.parametrize("per_class", [False, True])
def test_the_old_weight_goes_down_the_gradient_of_the_look_ahead(per_class: bool) -> None:
    loss = MetaBalancedSoftmax(per_class=per_class, learning_rate=0.25)
    weight = initial_weight(loss, C)
    assert weight is not None
    shape = (C,) if per_class else ()
    np.testing.assert_array_equal(weight.value, np.zeros(shape))
    at = np.random.default_rng(9).normal(size=shape)
    weight = weight._replace(value=f32(at))
    prior = np.where(SEEN, np.log(np.maximum(COUNTS, 1)), -np.inf)
    batch = f32(FEATURES), jnp.asarray(LABELS), f32(WEIGHTS)
    balanced = f32(BALANCED[0]), jnp.asarray(BALANCED[1])
    learned = LEARN(
        loss, LINEAR, HEAD, weight, context(prior=prior), batch, balanced, LEARNING_RATE
    )

    ways = np.eye(C) if per_class else np.ones(())[None]
    h = 1e-5
    finite = [looked_ahead(at + h * e, prior) - looked_ahead(at - h * e, prior) for e in ways]
    expected = np.reshape(finite, shape) / (2 * h)
    got = learned.opt_state[0].mu / 0.1  # Adam's first moment after one step
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-6)
    assert np.abs(expected).max() > 1e-3
    # Adam's first step is of full length, against the gradient
    np.testing.assert_allclose(learned.value - at, -0.25 * np.sign(expected), atol=1e-3)
    if per_class:
        np.testing.assert_array_equal(got[~OLD], 0)


def test_the_old_weight_stays_zero_where_nothing_is_old() -> None:
    loss = MetaBalancedSoftmax()
    weight = initial_weight(loss, C)
    assert weight is not None
    task = context(np.zeros(C, bool), SEEN)
    batch = f32(FEATURES), jnp.asarray(LABELS), f32(WEIGHTS)
    learned = LEARN(loss, LINEAR, HEAD, weight, task, batch, batch[:2], LEARNING_RATE)
    assert learned.value == 0
    assert initial_weight(BalancedSoftmax(), C) is None


def test_the_old_weight_is_added_to_old_classes_only() -> None:
    prior = np.array([0.5, -np.inf, 0.5, 2.0, 1.0, -np.inf])
    task = context(prior=prior)
    alike = weighted(task, f32(3)).log_prior
    np.testing.assert_allclose(alike, [3.5, -np.inf, 3.5, 2, 1, -np.inf])
    each = weighted(task, jnp.arange(6.0)).log_prior
    np.testing.assert_allclose(each, [0.5, -np.inf, 2.5, 2, 1, -np.inf])


# --- no method has a training loop of its own -----------------------------------------------

GRADIENTS = {"grad", "value_and_grad", "vjp", "jvp", "linearize"}
# what an optimiser is not made of: optax's names that methods may use
NO_OPTIMISER = {"GradientTransformation", "identity", "clip"}
# a problem of two unknowns after training, and the squared gradients of Fisher information
ALLOWED = {"bic.py": {"jax.value_and_grad", "scipy.optimize"}, "ewc.py": {"jax.grad"}}


def means_of_training(source: str) -> set[str]:
    """Finds what a training loop cannot do without: gradients, optimisers, the run's own loop."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [f"{node.module}.{alias.name}" for alias in node.names] + [str(node.module)]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            modules = [f"{node.value.id}.{node.attr}"]
        for module in modules:
            head, _, last = module.rpartition(".")
            if module.startswith("bsce_jax.training"):
                found.add("bsce_jax.training")
            if module.startswith("scipy.optimize"):
                found.add("scipy.optimize")
            if head.startswith("optax") and last not in NO_OPTIMISER:
                found.add(module)
            if head.startswith("jax") and last in GRADIENTS:
                found.add(module)
    return found


FOLDER = pathlib.Path(methods.__file__).parent


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.py")), ids=lambda file: file.name)
def test_no_method_has_a_training_loop(file: pathlib.Path) -> None:
    assert means_of_training(file.read_text()) == ALLOWED.get(file.name, set())


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("from bsce_jax.training.stage import fit", "bsce_jax.training"),
        ("import bsce_jax.training.stage", "bsce_jax.training"),
        ("optimizer = optax.adam(0.1)", "optax.adam"),
        ("from optax import sgd", "optax.sgd"),
        ("params = optax.apply_updates(params, updates)", "optax.apply_updates"),
        ("g = jax.grad(loss)(params)", "jax.grad"),
        ("from jax import value_and_grad", "jax.value_and_grad"),
        ("from scipy.optimize import minimize", "scipy.optimize"),
    ],
)
def test_a_training_loop_would_be_found(line: str, found: str) -> None:
    assert means_of_training(line) == {found}
