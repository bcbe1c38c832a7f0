"""The classification losses by name, the learned one among them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_tools import (
    BIAS,
    COUNTS,
    FEATURES,
    HEAD,
    LABELS,
    LINEAR,
    NEW,
    OLD,
    SEEN,
    STUDENT,
    WEIGHT,
    WEIGHTS,
    Array,
    C,
    D,
    context,
    cross_entropy,
    f32,
    log_softmax,
    outputs,
    sigmoid,
)

from bsce_jax import losses
from bsce_jax.methods import TaskContext
from bsce_jax.methods.criterion import CRITERIA, BalancedNCA, BalancedSoftmax, MetaStep
from bsce_jax.methods.meta import MetaBalancedSoftmax, OldWeight

Y, IS_OLD = jnp.asarray(LABELS), jnp.asarray(OLD)  # as the compiled step has them

# --- classification losses


def test_the_prior_of_cross_entropy_is_zero_for_seen_classes_whatever_the_counts() -> None:
    prior = CRITERIA["cross_entropy"]().log_prior(np.array([0, 2, 3, 6, 4, 9]), OLD, SEEN)
    np.testing.assert_array_equal(prior, [0, 0, 0, 0, 0, -np.inf])


def test_the_balanced_prior_is_tau_log_n() -> None:
    prior = BalancedSoftmax(tau=0.5).log_prior(COUNTS, OLD, SEEN)
    np.testing.assert_allclose(prior[:5], 0.5 * np.log([2, 2, 2, 6, 4]), rtol=1e-6)
    assert prior[5] == -np.inf
    log_counts = np.log(COUNTS + 1e-30)
    loss = BalancedSoftmax()(outputs(STUDENT, FEATURES), Y, f32(log_counts), IS_OLD)
    np.testing.assert_allclose(loss, cross_entropy(STUDENT + log_counts, LABELS), rtol=1e-5)


def test_without_a_prior_the_loss_is_not_balanced() -> None:
    """So a method with tau = 0 has its fine-tuning, as with cross-entropy."""
    assert not CRITERIA["cross_entropy"]().balanced
    for name in ("balanced_softmax", "meta_balanced_softmax", "balanced_nca"):
        assert CRITERIA[name]().balanced
    for criterion in (BalancedSoftmax(tau=0.0), BalancedNCA(tau=0.0)):
        assert not criterion.balanced
    assert MetaBalancedSoftmax(tau=0.0).balanced  # it learns a prior


@pytest.mark.parametrize("name", ["balanced_softmax", "meta_balanced_softmax", "balanced_nca"])
def test_the_relaxed_prior_is_relative_to_the_mean_new_count(name: str) -> None:
    counts = np.array([0.0, 0.0, 3.0, 6.0, 0.5, 0.0])
    criterion = CRITERIA[name]
    assert issubclass(criterion, BalancedSoftmax)
    prior = criterion(old_prior=0.4).log_prior(counts, OLD, SEEN)
    # 0.4 (6 + 0.5) / 2 = 1.3; an old class that has more keeps it, and a new one is never raised
    np.testing.assert_allclose(prior[:5], np.log([1.3, 1.3, 3, 6, 0.5]), rtol=1e-6)
    assert prior[5] == -np.inf


@pytest.mark.parametrize("name", ["balanced_softmax", "meta_balanced_softmax", "balanced_nca"])
def test_the_prior_of_tasks_has_two_values(name: str) -> None:
    criterion = CRITERIA[name]
    assert issubclass(criterion, BalancedSoftmax)
    counts = np.array([1, 4, 4, 6, 20, 0])
    prior = criterion(prior="task").log_prior(counts, OLD, SEEN)
    np.testing.assert_allclose(prior[:5], np.log([3, 3, 3, 13, 13]), rtol=1e-6)
    assert prior[5] == -np.inf
    raised = criterion(prior="task", old_prior=0.5).log_prior(counts, OLD, SEEN)
    np.testing.assert_allclose(raised[:5], np.log([6.5, 6.5, 6.5, 13, 13]), rtol=1e-6)
    # with one task it is plain cross-entropy, whatever the counts
    prior = criterion(prior="task").log_prior(counts, np.zeros(6, bool), counts > 0)
    np.testing.assert_allclose(prior[:5], np.log(7), rtol=1e-6)


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
        np.testing.assert_allclose(
            loss(student, jnp.asarray(labels), prior, IS_OLD), expected, rtol=1e-5
        )


def test_balanced_nca_is_nca_with_the_prior() -> None:
    assert CRITERIA["balanced_nca"] is BalancedNCA
    cosines = np.tanh(STUDENT)
    for quirks in (False, True):
        loss = BalancedNCA(margin=0.3, reference_quirks=quirks)
        prior = loss.log_prior(COUNTS, OLD, SEEN)
        got = loss(outputs(cosines, FEATURES, scale=4.0), Y, prior, IS_OLD)
        plain = losses.nca(
            cosines, LABELS, scale=4.0, margin=0.3, log_prior=prior, reference_quirks=quirks
        )
        np.testing.assert_allclose(got, np.maximum(plain, 0), rtol=1e-6)
    got = losses.nca(cosines, LABELS, scale=4.0, margin=0.3, log_prior=prior)
    for i, y in enumerate(LABELS):
        rivals = [4 * cosines[i, j] + np.log(COUNTS[j]) for j in range(5) if j != y]
        own = 4 * (cosines[i, y] - 0.3) + np.log(COUNTS[y])
        np.testing.assert_allclose(got[i], np.log(np.exp(rivals).sum()) - own, rtol=1e-4)


def test_binary_cross_entropy_judges_each_seen_class_by_itself() -> None:
    loss = CRITERIA["binary_cross_entropy"]()
    assert loss.one_vs_rest
    assert not CRITERIA["cross_entropy"]().one_vs_rest
    prior = loss.log_prior(COUNTS, OLD, SEEN)
    got = loss(outputs(STUDENT, FEATURES), Y, prior, IS_OLD)
    for i, y in enumerate(LABELS):
        p = sigmoid(STUDENT[i])
        expected = -sum(np.log(p[j] if j == y else 1 - p[j]) for j in range(5))
        np.testing.assert_allclose(got[i], expected, rtol=1e-5)


# --- the learned weight of the old classes


@functools.partial(jax.jit, static_argnums=0)
def learn(
    loss: MetaBalancedSoftmax, weight: OldWeight, task: TaskContext, batch: Any, balanced: Any
) -> OldWeight:
    meta = MetaStep(LINEAR, HEAD, task, batch, balanced, f32(LEARNING_RATE))
    return loss.learn(weight, meta)


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
    weight = loss.init_state(C)
    shape = (C,) if per_class else ()
    np.testing.assert_array_equal(weight.value, np.zeros(shape))
    at = np.random.default_rng(9).normal(size=shape)
    weight = weight._replace(value=f32(at))
    prior = np.where(SEEN, np.log(np.maximum(COUNTS, 1)), -np.inf)
    batch = f32(FEATURES), jnp.asarray(LABELS), f32(WEIGHTS)
    balanced = f32(BALANCED[0]), jnp.asarray(BALANCED[1])
    learned = learn(loss, weight, context(prior=prior), batch, balanced)

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
    weight = loss.init_state(C)
    task = context(np.zeros(C, bool), SEEN)
    batch = f32(FEATURES), jnp.asarray(LABELS), f32(WEIGHTS)
    learned = learn(loss, weight, task, batch, batch[:2])
    assert learned.value == 0
    assert not BalancedSoftmax().learns
    assert loss.learns


def test_the_old_weight_is_added_to_old_classes_only() -> None:
    prior = f32([0.5, -np.inf, 0.5, 2.0, 1.0, -np.inf])
    weight = MetaBalancedSoftmax().init_state(6)
    learned = lambda w: MetaBalancedSoftmax().learned_prior(prior, IS_OLD, weight._replace(value=w))
    alike = learned(f32(3))
    np.testing.assert_allclose(alike, [3.5, -np.inf, 3.5, 2, 1, -np.inf])
    each = learned(jnp.arange(6.0))
    np.testing.assert_allclose(each, [0.5, -np.inf, 2.5, 2, 1, -np.inf])
