"""Methods that keep statistics: of weights, of scores, of features."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from method_tools import (
    BIAS,
    CE,
    FEATURES,
    HEAD,
    LINEAR,
    OLD,
    REAL,
    RHO,
    SEEN,
    STUDENT,
    TEACHER_FEATURES,
    WEIGHT,
    Array,
    C,
    D,
    FakeProbe,
    assert_terms,
    context,
    cross_entropy,
    f32,
    info,
    log_softmax,
    make_step,
    model,
    terms_of,
)

from bsce_jax.methods import ModelState, Step
from bsce_jax.methods.ewc import BATCH, EWC, fisher
from bsce_jax.methods.fetril import FeTrIL
from bsce_jax.methods.il2m import IL2M
from bsce_jax.methods.pass_ import PASS
from bsce_jax.models import HEADS

# --- penalties and statistics


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
    distances = np.abs(parts[1]["bias"] - np.asarray(alone)).max(axis=1)
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
    predict = jax.jit(IL2M().predict)
    features = f32(np.ones((3, 2)))  # not used
    got = np.exp(predict(logits, features, after_il2m().extra))
    first, second = 0.9 / 0.5 * 0.7 / 0.95, 0.8 / 0.6 * 0.7 / 0.95
    expected = scores.copy()
    expected[:2] *= [first, second, 1, 1]
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert got.argmax(axis=1).tolist() == [0, 2, 0]
    start = IL2M().init_extra({}, 4)
    np.testing.assert_allclose(np.exp(predict(logits, features, start)), scores, rtol=1e-5)


# --- features of the method's own making


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


AUXILIARY = np.random.default_rng(8).normal(size=(5, 3 * C))
TURNED_WEIGHT = np.random.default_rng(9).normal(size=(3 * C, D))
TURNED = LINEAR.clone(auxiliary=HEADS["linear"](3 * C))
TURNED_HEADS = {
    "head": {"weight": f32(WEIGHT), "bias": jnp.zeros(C)},
    "auxiliary": {"weight": f32(TURNED_WEIGHT), "bias": jnp.zeros(3 * C)},
}


def in_turns(step: Step) -> Step:
    """A batch of images that have got 0, 1, 2 and 3 turns, and one of padding."""
    student = dataclasses.replace(step.student, auxiliary=f32(AUXILIARY))
    return dataclasses.replace(step, student=student, turns=jnp.array([0, 1, 2, 3, 0]))


def test_pass_tells_turns_apart_classifies_noisy_prototypes_and_holds_the_features() -> None:
    prototypes = np.random.default_rng(6).normal(size=(C, D))
    extra = {"prototypes": f32(prototypes), "radius": f32(0.3)}
    step = in_turns(make_step(extra=extra, network=TURNED, params=TURNED_HEADS))
    key_class, key_noise = jax.random.split(step.key)
    drawn = jax.random.categorical(key_class, jnp.where(OLD, 0.0, -jnp.inf), shape=(5,))
    labels = np.asarray(drawn)
    assert OLD[labels].all()
    noisy = prototypes[labels] + 0.3 * np.asarray(jax.random.normal(key_noise, (5, D)))
    columns = np.concatenate([WEIGHT, TURNED_WEIGHT])
    among = np.concatenate([SEEN, np.repeat(SEEN, 3)])
    replayed = cross_entropy(noisy @ columns.T, labels, among)[REAL].mean()
    distance = np.linalg.norm(FEATURES - TEACHER_FEATURES, axis=1)[REAL].mean()
    # class c, turned k times, has the column C + 3 c + k - 1; the fifth row is padding
    scores = np.concatenate([STUDENT, AUXILIARY], axis=1)
    turned = np.array([0, C + 3 * 2 + 0, C + 3 * 3 + 1, C + 3 * 4 + 2, 0])
    assert_terms(
        terms_of(PASS(prototype=2.0, distillation=3.0), step),
        classification=cross_entropy(scores, turned, among)[REAL].mean(),
        prototype=2 * replayed,
        distillation=3 * distance,
    )


def test_pass_has_a_finite_gradient_where_nothing_has_moved() -> None:
    extra = PASS().init_extra(HEAD, C)
    step = in_turns(make_step(extra=extra, network=TURNED, params=TURNED_HEADS))

    def loss(features: jax.Array) -> jax.Array:
        student = dataclasses.replace(step.student, features=features)
        moved = dataclasses.replace(step, student=student)
        return PASS().terms(moved)["distillation"]

    np.testing.assert_array_equal(jax.jit(jax.grad(loss))(step.teacher.features), 0)


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
    counts = np.array([0.0, 0.0, 0.0, 30.0, 10.0, 0.0])
    task = context(prior=np.array([-9.0, -9.0, -9.0, 1.0, 2.0, -np.inf]), counts=counts)
    step = make_step(labels=labels, task=task, extra={"means": f32(means)})
    drawn = jax.random.categorical(step.key, jnp.where(OLD, 0.0, -jnp.inf), shape=(5,))
    pseudo = np.asarray(drawn)
    assert OLD[pseudo].all()
    translated = FEATURES - means[labels] + means[pseudo]
    # class 3 has three times the images of class 4, and a third of the weight
    weights = np.where(labels == 3, 2 / 3, 2)
    plain = (weights * cross_entropy(STUDENT, labels))[REAL].mean()
    moved = cross_entropy(translated @ WEIGHT.T + BIAS, pseudo)[REAL].mean()
    assert_terms(terms_of(FeTrIL(), step), classification=(1 - RHO) * plain, translated=RHO * moved)
