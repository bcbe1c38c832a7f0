"""Each loss against numbers worked out by hand, slow loops, finite differences and properties."""

import inspect
import math
from types import SimpleNamespace
from typing import Any

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from jax.typing import ArrayLike
from loss_cases import (
    COSINES,
    COUNTS,
    LABELS,
    LOGITS,
    MAPS,
    OLD,
    PRIOR,
    SEEN,
    TASKS,
    TEACHER,
    B,
    C,
    Loss,
    total_grad,
)

from bsce_jax import losses

# Compiled as a whole: op by op, every new shape would cost a second.
STATIC = {"margin_ranking": "k", "nca": ("exclude_positive", "hinge", "reference_quirks")}
jitted = SimpleNamespace(
    **{
        name: jax.jit(function, static_argnames=STATIC.get(name))
        for name, function in inspect.getmembers(losses, inspect.isfunction)
        if not name.startswith("_")
    }
)


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


# class_log_prior


def test_log_prior_by_hand() -> None:
    # ln 20 = 2.995732, ln 500 = 6.214608
    prior = jitted.class_log_prior(np.array([20, 500, 0]))
    np.testing.assert_allclose(prior, [2.995732, 6.214608, -np.inf], rtol=1e-6)
    assert prior.dtype == jnp.float32
    half = jitted.class_log_prior(np.array([20, 500, 0]), tau=0.5)
    np.testing.assert_allclose(half, [1.497866, 3.107304, -np.inf], rtol=1e-6)


def test_floor_lifts_seen_classes_only() -> None:
    prior = jitted.class_log_prior(
        np.array([0, 0, 500]), seen=np.array([True, False, True]), floor=0.5
    )
    np.testing.assert_allclose(prior, [math.log(0.5), -np.inf, math.log(500)], rtol=1e-6)


def test_seen_class_without_sample_or_floor() -> None:
    counts, seen = np.array([0.0, 4.0, 0.0]), np.array([True, True, False])
    prior = jax.jit(lambda tau: jitted.class_log_prior(counts, tau=tau, seen=seen))
    np.testing.assert_allclose(prior(1.0), [-np.inf, math.log(4), -np.inf], rtol=1e-6)
    np.testing.assert_array_equal(prior(0.0), [0.0, 0.0, -np.inf])


def test_log_prior_gradient_is_finite_at_zero_counts() -> None:
    def finite_part(counts: jax.Array, tau: float) -> jax.Array:
        prior = losses.class_log_prior(counts, tau=tau, seen=np.array([True, True, False]))
        return jnp.where(jnp.isneginf(prior), 0.0, prior)

    gradient = total_grad(finite_part, (0, 1))
    counts = np.array([0.0, 4.0, 0.0], np.float32)
    by_counts, by_tau = gradient(counts, 1.0)
    np.testing.assert_allclose(by_counts, [0.0, 0.25, 0.0])  # 1 / n
    np.testing.assert_allclose(by_tau, math.log(4), rtol=1e-6)
    np.testing.assert_array_equal(gradient(counts, 0.0)[0], 0.0)


# Softmax cross-entropy, plain, balanced and separated


def test_softmax_cross_entropy_by_hand() -> None:
    # exp of the logits is 1, 2, 5: probabilities 1/8, 2/8, 5/8.
    logits = np.log(np.array([[1.0, 2.0, 5.0]] * 3))
    loss = jitted.softmax_cross_entropy(logits, np.arange(3))
    np.testing.assert_allclose(loss, [math.log(8), math.log(4), math.log(1.6)], rtol=1e-6)
    # A prior of 4, 1, 0 samples makes the weights 4, 2, 0.
    prior = np.array([math.log(4), 0.0, -np.inf])
    loss = jitted.softmax_cross_entropy(logits, np.arange(3), prior)
    np.testing.assert_allclose(loss, [math.log(1.5), math.log(3), np.inf], rtol=1e-6)


def test_softmax_cross_entropy_takes_a_prior_for_each_example() -> None:
    prior = np.stack([PRIOR, np.zeros(C, np.float32)])
    both = jitted.softmax_cross_entropy(LOGITS[:2], LABELS[:2], prior)
    first = jitted.softmax_cross_entropy(LOGITS[:1], LABELS[:1], PRIOR)
    second = jitted.softmax_cross_entropy(LOGITS[1:2], LABELS[1:2])
    np.testing.assert_allclose(both, [first[0], second[0]], rtol=1e-6)


def test_unseen_label_costs_infinity_and_no_nan() -> None:
    def loss(z: ArrayLike) -> Any:
        return jitted.softmax_cross_entropy(z, np.array([2]), np.full(C, -np.inf))

    np.testing.assert_array_equal(loss(LOGITS[:1]), np.inf)
    np.testing.assert_array_equal(total_grad(loss)(LOGITS[:1]), 0.0)


def test_balanced_softmax_by_hand() -> None:
    # Equal logits: p = n / sum n = 20/520 and 500/520, and nothing for the class of count 0.
    loss = jitted.balanced_softmax_cross_entropy(
        np.zeros((2, 3)), np.array([0, 1]), np.array([20, 500, 0])
    )
    np.testing.assert_allclose(loss, [math.log(26), math.log(1.04)], rtol=1e-5)
    # tau = 1/2: weights sqrt(4) and sqrt(9).
    loss = jitted.balanced_softmax_cross_entropy(
        np.zeros((2, 2)), np.array([0, 1]), np.array([4, 9]), tau=0.5
    )
    np.testing.assert_allclose(loss, [math.log(5 / 2), math.log(5 / 3)], rtol=1e-6)


def test_balanced_softmax_gradient_is_its_probabilities_minus_the_label() -> None:
    gradient = total_grad(jitted.balanced_softmax_cross_entropy)(LOGITS, LABELS, COUNTS)
    weights = COUNTS * np.exp(LOGITS)
    expected = weights / weights.sum(axis=1, keepdims=True) - np.eye(C)[LABELS]
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_balanced_softmax_at_500_to_20_in_bfloat16() -> None:
    rng = np.random.default_rng(1)
    logits = (3 * rng.normal(size=(64, 60))).astype(np.float32)
    labels = rng.integers(60, size=64)
    counts = np.array([20] * 50 + [500] * 10)
    exact = jitted.balanced_softmax_cross_entropy(logits, labels, counts)
    low = jitted.balanced_softmax_cross_entropy(logits.astype(jnp.bfloat16), labels, counts)
    assert np.isfinite(low).all()
    # Rounding moves a logit of up to 16 by at most 1/32, the loss by twice that.
    np.testing.assert_allclose(low, exact, atol=1 / 16)


def test_counts_can_be_learned() -> None:
    # d loss / d n_j = (p_j - [j = y]) / n_j, and 0 where there is no class.
    counts = COUNTS.astype(np.float32)
    gradient = total_grad(jitted.balanced_softmax_cross_entropy, 2)(LOGITS, LABELS, counts)
    weights = counts * np.exp(LOGITS)
    error = weights / weights.sum(axis=1, keepdims=True) - np.eye(C)[LABELS]
    expected = np.where(counts > 0, error.sum(axis=0) / np.maximum(counts, 1), 0.0)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


def test_counts_can_be_learned_through_an_inner_step() -> None:
    labels = np.array([0, 1, 0, 3])

    def outer(log_weight: jax.Array) -> jax.Array:
        counts = jnp.where(OLD, jnp.exp(log_weight), 1.0) * SEEN
        inner = jax.grad(lambda z: losses.balanced_softmax_cross_entropy(z, labels, counts).sum())
        stepped = LOGITS - 0.5 * inner(LOGITS)
        return losses.softmax_cross_entropy(stepped, labels, PRIOR).mean()

    value_and_slope = jax.jit(jax.value_and_grad(outer))
    (up, _), (_, slope), (down, _) = (value_and_slope(x) for x in (0.31, 0.3, 0.29))
    assert abs(slope) > 0.01
    np.testing.assert_allclose((up - down) / 0.02, slope, rtol=1e-2)


def test_separated_softmax_by_hand() -> None:
    # exp of the logits is 1, 2, 5, 3: old classes {0, 2} have 1/6 and 5/6, new ones 2/5 and 3/5.
    logits = np.log(np.array([[1.0, 2.0, 5.0, 3.0]] * 4))
    old = np.array([True, False, True, False])
    loss = jitted.separated_softmax_cross_entropy(logits, np.arange(4), old)
    np.testing.assert_allclose(loss, np.log([6, 5 / 2, 6 / 5, 5 / 3]), rtol=1e-6)
    # With class 3 unseen, class 1 is the only new one, and sure.
    prior = np.array([0.0, 0.0, 0.0, -np.inf])
    loss = jitted.separated_softmax_cross_entropy(
        logits[:2], np.array([0, 1]), old, log_prior=prior
    )
    np.testing.assert_allclose(loss, [math.log(6), 0.0], rtol=1e-6, atol=1e-6)


def test_separated_softmax_leaves_the_other_side_alone() -> None:
    gradient = total_grad(jitted.separated_softmax_cross_entropy)(LOGITS, LABELS, OLD)
    np.testing.assert_array_equal(gradient != 0, OLD[LABELS][:, None] == OLD)


def test_separated_softmax_without_old_classes_is_cross_entropy() -> None:
    np.testing.assert_array_equal(
        jitted.separated_softmax_cross_entropy(LOGITS, LABELS, np.zeros(C, bool)),
        jitted.softmax_cross_entropy(LOGITS, LABELS),
    )


finite = st.floats(-20, 20, width=32)
some_logits = hnp.arrays(np.float32, (B, C), elements=finite)
some_labels = hnp.arrays(np.int32, B, elements=st.integers(0, C - 1))
some_counts = hnp.arrays(np.int32, C, elements=st.integers(1, 5000))
bsce = jitted.balanced_softmax_cross_entropy
cross_entropy = jitted.softmax_cross_entropy


@given(some_logits, some_labels, st.integers(1, 5000))
@settings(deadline=None, max_examples=50)
def test_equal_counts_give_cross_entropy(z: np.ndarray, y: np.ndarray, count: int) -> None:
    np.testing.assert_allclose(
        bsce(z, y, np.full(C, count)), cross_entropy(z, y), rtol=1e-6, atol=1e-5
    )


@given(some_logits, some_labels, some_counts, st.floats(0.01, 1000))
@settings(deadline=None, max_examples=50)
def test_a_common_factor_of_the_counts_cancels(
    z: np.ndarray, y: np.ndarray, counts: np.ndarray, factor: float
) -> None:
    scaled = (factor * counts).astype(np.float32)
    counts = counts.astype(np.float32)
    np.testing.assert_allclose(bsce(z, y, scaled), bsce(z, y, counts), rtol=1e-5, atol=2e-5)


@given(some_logits, some_labels, some_counts)
@settings(deadline=None, max_examples=50)
def test_tau_zero_is_cross_entropy(z: np.ndarray, y: np.ndarray, counts: np.ndarray) -> None:
    np.testing.assert_allclose(
        bsce(z, y, counts, tau=0.0), cross_entropy(z, y), rtol=1e-6, atol=1e-6
    )


@given(some_logits, some_counts)
@settings(deadline=None, max_examples=50)
def test_the_rarer_of_two_equal_labels_costs_more(z: np.ndarray, counts: np.ndarray) -> None:
    z[:, 1] = z[:, 0]
    counts[1] = counts[0] + counts[1]
    rare, common = (bsce(z, np.full(B, label), counts) for label in (0, 1))
    # The difference is log(n_1 / n_0), whatever the other classes do.
    np.testing.assert_allclose(rare - common, math.log(counts[1] / counts[0]), atol=1e-4)


@given(
    some_logits,
    hnp.arrays(bool, C).filter(lambda seen: seen[0]),
    some_counts,
    st.sampled_from([np.float32, jnp.bfloat16]),
)
@settings(deadline=None, max_examples=50)
def test_count_zero_is_the_same_as_no_such_class(
    z: np.ndarray, seen: np.ndarray, counts: np.ndarray, dtype: Any
) -> None:
    logits, label, counts = z.astype(dtype), np.zeros(B, np.int32), counts * seen
    gradient = np.asarray(bsce_grad(logits, label, counts), np.float32)
    np.testing.assert_array_equal(gradient[:, ~seen], 0.0)
    z = np.asarray(logits, np.float32)
    kept = softmax(z[:, seen] + np.log(counts[seen])) - np.eye(seen.sum())[0]
    np.testing.assert_allclose(gradient[:, seen], kept, rtol=2**-7, atol=1e-5)


bsce_grad = jax.jit(jax.vmap(jax.grad(jitted.balanced_softmax_cross_entropy), (0, 0, None)))


FIRST = np.array([0, 1, 1, 0])
# each of the scores, the teacher's and the tasks of the classes that there are
OF_LOGITS: dict[str, Loss] = {
    "softmax_cross_entropy": lambda z, t, tasks: losses.softmax_cross_entropy(z, FIRST),
    "binary_cross_entropy": lambda z, t, tasks: losses.binary_cross_entropy(z, FIRST),
    "binary_distillation": lambda z, t, tasks: losses.binary_distillation(z, t),
    "distillation": lambda z, t, tasks: losses.distillation(z, t),
    "taskwise_distillation": lambda z, t, tasks: losses.taskwise_distillation(
        z, t, tasks, np.ones(len(tasks), bool)
    ),
}


@pytest.mark.parametrize("name", OF_LOGITS)
def test_a_logit_of_minus_infinity_is_the_same_as_no_such_class(name: str) -> None:
    """As `Method.predict` gives them for classes that are not seen."""
    kept = np.array([True, True, False, True, False])  # of the tasks 0, 1 and 0
    z, t = (np.where(kept, scores, -np.inf) for scores in (LOGITS, TEACHER))
    loss = jax.jit(OF_LOGITS[name])
    np.testing.assert_allclose(
        loss(z, t, TASKS), loss(z[:, kept], t[:, kept], TASKS[kept]), rtol=1e-5
    )
    slope = total_grad(lambda z: loss(z, t, TASKS))(z)
    wanted = total_grad(lambda z: loss(z, t[:, kept], TASKS[kept]))(z[:, kept])
    np.testing.assert_allclose(slope[:, kept], wanted, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(slope[:, ~kept], 0.0)


# One-vs-rest


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


def test_binary_cross_entropy_by_hand() -> None:
    # Sigmoids 1/2 and 3/4: label 0 costs ln 2 + ln 4, label 1 costs ln 2 + ln 4/3.
    logits = np.array([[0.0, math.log(3), 9.0]] * 2)
    seen = np.array([True, True, False])
    loss = jitted.binary_cross_entropy(logits, np.array([0, 1]), seen)
    np.testing.assert_allclose(loss, [math.log(8), math.log(8 / 3)], rtol=1e-6)


def test_binary_cross_entropy_over_all_classes_by_loop() -> None:
    expected = [
        -sum(log_sigmoid(z if j == y else -z) for j, z in enumerate(row))
        for row, y in zip(LOGITS.tolist(), LABELS.tolist(), strict=True)
    ]
    np.testing.assert_allclose(jitted.binary_cross_entropy(LOGITS, LABELS), expected, rtol=1e-5)


def test_binary_cross_entropy_keeps_small_losses() -> None:
    # ln(1 + e^-20), which the form softplus(z) - z y would round to 0.
    loss = jitted.binary_cross_entropy(np.array([[20.0]]), np.array([0]))
    np.testing.assert_allclose(loss, [math.log1p(math.exp(-20))], rtol=1e-5)


def test_binary_distillation_by_hand() -> None:
    # Teacher 3/4, student 1/4: -(3/4 ln 1/4 + 1/4 ln 3/4).
    loss = jitted.binary_distillation(np.array([[-math.log(3)]]), np.array([[math.log(3)]]))
    np.testing.assert_allclose(loss, [-(0.75 * math.log(0.25) + 0.25 * math.log(0.75))], rtol=1e-6)


def test_binary_distillation_is_least_at_the_teacher() -> None:
    gradient = total_grad(jitted.binary_distillation)(TEACHER, TEACHER)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-6)


# Distillation


def kl_by_loop(z: list[float], t: list[float], where: list[bool], temperature: float) -> float:
    kept = [j for j, inside in enumerate(where) if inside]
    p = [math.exp(t[j] / temperature) for j in kept]
    q = [math.exp(z[j] / temperature) for j in kept]
    p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
    return temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def test_distillation_by_hand() -> None:
    # T = 2 halves the logits: teacher 3/4, 1/4; student 1/2, 1/2; the third class is left out.
    # 4 (3/4 ln 3/2 + 1/4 ln 1/2) = 3 ln 1.5 - ln 2 = 0.523248
    logits, teacher = np.array([[0.0, 0.0, 9.0]]), np.array([[2 * math.log(3), 0.0, 0.0]])
    loss = jitted.distillation(logits, teacher, where=np.array([True, True, False]))
    np.testing.assert_allclose(loss, [0.523248], rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_distillation_by_loop(temperature: float) -> None:
    where = np.array([SEEN, OLD, ~OLD, np.ones(C, bool)])
    loss = jitted.distillation(LOGITS, TEACHER, temperature=temperature, where=where)
    expected = [
        kl_by_loop(*rows, temperature)
        for rows in zip(LOGITS.tolist(), TEACHER.tolist(), where.tolist(), strict=True)
    ]
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_distillation_of_the_teacher_itself_is_zero() -> None:
    np.testing.assert_array_equal(jitted.distillation(TEACHER, TEACHER), 0.0)
    gradient = total_grad(jitted.distillation)(TEACHER, TEACHER)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-6)


def test_distillation_over_no_class_is_zero() -> None:
    nothing = np.zeros(C, bool)

    def plain(z: ArrayLike) -> Any:
        return jitted.distillation(z, TEACHER, where=nothing)

    def taskwise(z: ArrayLike) -> Any:
        return jitted.taskwise_distillation(z, TEACHER, TASKS, nothing)

    for loss in (plain, taskwise):
        np.testing.assert_array_equal(loss(LOGITS), 0.0)
        np.testing.assert_array_equal(total_grad(loss)(LOGITS), 0.0)


@given(
    some_logits,
    some_logits,
    hnp.arrays(np.int32, C, elements=st.integers(0, C - 1)),
    hnp.arrays(bool, C),
    st.sampled_from([1.0, 2.0]),
)
@settings(deadline=None, max_examples=50)
def test_taskwise_distillation_is_the_sum_over_tasks(
    z: np.ndarray, t: np.ndarray, tasks: np.ndarray, old: np.ndarray, temperature: float
) -> None:
    loss, gradient = np.zeros(B), np.zeros((B, C))
    for task in range(C):
        where = old & (tasks == task)
        value, slope = one_task(z, t, where, temperature)
        loss, gradient = loss + value, gradient + slope
    value, slope = all_tasks(z, t, tasks, old, temperature)
    np.testing.assert_allclose(value, loss, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(slope, gradient, rtol=1e-4, atol=1e-5)
    # Where a class is not old, its task number is free.
    free, _ = all_tasks(z, t, np.where(old, tasks, -1), old, temperature)
    np.testing.assert_allclose(free, value, rtol=1e-5, atol=1e-5)


def value_and_slope(loss: Loss) -> Loss:
    def total(*args: Any) -> tuple[jax.Array, jax.Array]:
        return loss(*args).sum(), loss(*args)

    compiled = jax.jit(jax.grad(total, has_aux=True))
    return lambda *args: jax.device_get(compiled(*args)[::-1])


one_task = value_and_slope(
    lambda z, t, where, temperature: losses.distillation(z, t, where=where, temperature=temperature)
)
all_tasks = value_and_slope(
    lambda z, t, tasks, old, temperature: losses.taskwise_distillation(
        z, t, tasks, old, temperature=temperature
    )
)


@pytest.mark.parametrize("shift", [3.0, -4096.0])  # exp of the second is no float32
def test_taskwise_distillation_ignores_a_shift_between_tasks(shift: float) -> None:
    teacher = np.round(TEACHER, 1)
    shifted = teacher + shift * TASKS
    loss = jitted.taskwise_distillation(shifted, teacher, TASKS, np.ones(C, bool))
    np.testing.assert_allclose(loss, 0.0, atol=1e-5)
    assert (jitted.distillation(shifted, teacher) > 0.1).all()


# Features


def test_less_forget_by_hand() -> None:
    # cos((3, 4), (4, 3)) = 24/25; the same direction 1; the opposite -1; at right angles 0.
    features = np.array([[3.0, 4.0], [3.0, 4.0], [3.0, 4.0], [3.0, 4.0]])
    teacher = np.array([[4.0, 3.0], [6.0, 8.0], [-3.0, -4.0], [-4.0, 3.0]])
    loss = jitted.less_forget(features, teacher)
    np.testing.assert_allclose(loss, [0.04, 0.0, 2.0, 1.0], atol=1e-6)


def test_less_forget_is_safe_near_zero_vectors() -> None:
    tiny = np.repeat(np.array([[0.0], [1e-30], [1e-12], [1e-10]], np.float32), 2, axis=1)
    one = np.ones_like(tiny)
    for features, teacher in [(tiny, one), (one, tiny), (tiny, tiny)]:
        assert np.isfinite(jitted.less_forget(features, teacher)).all()
        assert np.isfinite(total_grad(losses.less_forget)(features, teacher)).all()
    np.testing.assert_array_equal(jitted.less_forget(tiny, one)[0], 1.0)


def test_margin_ranking_by_hand() -> None:
    old = np.array([True, True, False, False, False])
    cosines = np.array([[0.8, 0.1, 0.6, 0.4, -0.2]] * 3)
    # Label 0, rivals 0.6 and 0.4: 0.5 - 0.8 + (0.6, 0.4) = 0.3, 0.1. Label 1: 1, 0.8. 2 is new.
    loss = jitted.margin_ranking(cosines, np.array([0, 1, 2]), old)
    np.testing.assert_allclose(loss, [0.2, 0.9, 0.0], atol=1e-6)
    # Margin 0.3: 0.1 and max(0, -0.1); one rival: 0.3; five asked for, three there: 0.3, 0.1, 0.
    variants: list[tuple[dict[str, Any], float]] = [
        ({"margin": 0.3}, 0.05),
        ({"k": 1}, 0.3),
        ({"k": 9}, 0.4 / 3),
    ]
    for options, expected in variants:
        loss = jitted.margin_ranking(cosines[:1], np.array([0]), old, **options)
        np.testing.assert_allclose(loss, [expected], atol=1e-6)


def test_margin_ranking_counts_only_the_new_classes_there_are() -> None:
    old = np.array([True, False, False])
    cosines = np.array([[0.8, 0.6, 0.9]])
    one_new = jitted.margin_ranking(cosines, np.array([0]), old, seen=np.array([True, True, False]))
    np.testing.assert_allclose(one_new, [0.3], atol=1e-6)

    def loss(c: ArrayLike) -> Any:
        return jitted.margin_ranking(c, np.array([0]), old, seen=old)

    np.testing.assert_array_equal(loss(cosines), 0.0)
    np.testing.assert_array_equal(total_grad(loss)(cosines), 0.0)


def test_margin_ranking_gradient_by_hand() -> None:
    # Both rivals violate the margin: -1 for the label, 1/2 for each of the two.
    old = np.array([True, False, False, False])
    gradient = total_grad(jitted.margin_ranking)(
        np.array([[0.2, 0.6, -0.9, 0.4]]), np.array([0]), old
    )
    np.testing.assert_allclose(gradient, [[-1.0, 0.5, 0.0, 0.5]], atol=1e-6)


def test_pod_spatial_by_hand() -> None:
    # Squares [[1, 4], [0, 1]]: over height 1, 5, over width 5, 1, of length sqrt 52. Teacher: four
    # times 2, of length 4. Cosine 24 / (4 sqrt 52), distance sqrt(2 - 2 cos) = 0.579571.
    student = np.array([[1.0, 2.0], [0.0, 1.0]]).reshape(1, 2, 2, 1)
    teacher = np.ones((1, 2, 2, 1))
    loss = jitted.pod_spatial([student], [teacher])
    np.testing.assert_allclose(loss, [math.sqrt(2 - 12 / math.sqrt(52))], rtol=1e-5)
    # A second stage of one pixel and two channels, at right angles: sqrt 2. Then the mean.
    second = np.array([1.0, 0.0]).reshape(1, 1, 1, 2), np.array([0.0, 1.0]).reshape(1, 1, 1, 2)
    both = jitted.pod_spatial([student, second[0]], [teacher, second[1]])
    np.testing.assert_allclose(both, (loss + math.sqrt(2)) / 2, rtol=1e-6)


def test_pod_pixel_by_loop() -> None:
    """Channel by channel, as the code of AFC with factors of one."""
    rng = np.random.default_rng(3)
    sizes = ((2, 3, 4), (1, 2, 5))
    student, teacher = ([rng.normal(size=(3, *size)) for size in sizes] for _ in range(2))
    wanted = np.zeros(3)
    for n in range(3):
        for a, b in zip(student, teacher, strict=True):
            distances = []
            for channel in range(a.shape[-1]):
                x, y = a[n, ..., channel].ravel() ** 2, b[n, ..., channel].ravel() ** 2
                x, y = x / np.sqrt((x**2).sum()), y / np.sqrt((y**2).sum())
                distances.append(np.sqrt(((x - y) ** 2).sum()))
            wanted[n] += np.mean(distances) / len(sizes)
    np.testing.assert_allclose(jitted.pod_pixel(student, teacher), wanted, rtol=1e-5)


def test_pod_spatial_by_loop() -> None:
    def pool(x: np.ndarray) -> np.ndarray:
        height, width, channels = x.shape
        sums = [
            sum(x[i, j, c] ** 2 for i in range(height))
            for j in range(width)
            for c in range(channels)
        ] + [
            sum(x[i, j, c] ** 2 for j in range(width))
            for i in range(height)
            for c in range(channels)
        ]
        return np.array(sums) / math.sqrt(sum(s * s for s in sums))

    s1, s2, t1, t2 = MAPS
    expected = [
        (np.linalg.norm(pool(a) - pool(b)) + np.linalg.norm(pool(c) - pool(d))) / 2
        for a, b, c, d in zip(s1, t1, s2, t2, strict=True)
    ]
    np.testing.assert_allclose(jitted.pod_spatial([s1, s2], [t1, t2]), expected, rtol=1e-5)


def test_pod_spatial_is_flat_where_student_and_teacher_agree() -> None:
    maps = np.ones((4, 2, 3, 4)) * np.reshape([0.0, 1e-20, 1.0, 1e4], (4, 1, 1, 1))
    np.testing.assert_array_equal(jitted.pod_spatial([maps], [maps]), 0.0)
    (gradient,) = total_grad(losses.pod_spatial)([maps], [maps])
    np.testing.assert_array_equal(gradient, 0.0)


# NCA


def nca_by_loop(s: list[float], y: int, scale: float, margin: float, prior: list[float]) -> float:
    others = sum(math.exp(scale * x + prior[i]) for i, x in enumerate(s) if i != y)
    return -(scale * (s[y] - margin) + prior[y]) + math.log(others)


def nca_as_published(
    s: np.ndarray, y: int, scale: float, margin: float, prior: np.ndarray
) -> float:
    """Follows the published code's steps, margin off every class and positive set to 0."""
    z = scale * (s - margin) + prior
    z = z - z.max()
    denominator = z.copy()
    denominator[y] = 0.0
    return float(np.log(np.exp(denominator).sum()) - z[y])


@pytest.mark.parametrize("margin", [0.0, 0.6])
@pytest.mark.parametrize("prior", [np.zeros(C), PRIOR])
def test_nca_by_loop(prior: np.ndarray, margin: float) -> None:
    options: dict[str, Any] = {"scale": 3.0, "margin": margin, "log_prior": prior}
    expected = [
        nca_by_loop(s, y, 3.0, margin, prior.tolist())
        for s, y in zip(COSINES.tolist(), LABELS.tolist(), strict=True)
    ]
    np.testing.assert_allclose(jitted.nca(COSINES, LABELS, **options), expected, rtol=1e-5)
    quirky = [
        nca_as_published(s, y, 3.0, margin, prior) for s, y in zip(COSINES, LABELS, strict=True)
    ]
    loss = jitted.nca(COSINES, LABELS, **options, reference_quirks=True)
    np.testing.assert_allclose(loss, quirky, rtol=1e-5, atol=1e-6)
    assert (np.abs(np.subtract(expected, quirky)) > 1e-3).all()


def test_nca_by_hand() -> None:
    # scale 2: exp(2 s) = 4, 1, 2. Label 0, margin m: ln(3 / 4) + 2 m. Label 1: ln 6 + 2 m.
    similarities = np.log(np.array([[4.0, 1.0, 2.0]] * 2)) / 2
    loss = jitted.nca(similarities, np.array([0, 1]), scale=2.0, margin=0.1)
    np.testing.assert_allclose(loss, [math.log(0.75) + 0.2, math.log(6) + 0.2], rtol=1e-5)
    loss = jitted.nca(similarities, np.array([0, 1]), scale=2.0, margin=0.1, hinge=True)
    np.testing.assert_allclose(loss, [0, math.log(6) + 0.2], rtol=1e-5)
    # The quirk puts the highest, 4, in the label's place and drops the margin: ln 7/4, ln 10.
    loss = jitted.nca(similarities, np.array([0, 1]), scale=2.0, margin=0.1, reference_quirks=True)
    np.testing.assert_allclose(loss, [math.log(1.75), math.log(10)], rtol=1e-5)


@pytest.mark.parametrize("quirks", [False, True])
def test_nca_with_the_positive_is_cross_entropy(quirks: bool) -> None:
    loss = jitted.nca(
        COSINES, LABELS, scale=3.0, log_prior=PRIOR, exclude_positive=False, reference_quirks=quirks
    )
    margins = 0.0 if quirks else 0.6 * np.eye(C)[LABELS]
    expected = jitted.softmax_cross_entropy(3.0 * (COSINES - margins), LABELS, PRIOR)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_nca_scale_can_be_learned() -> None:
    @jax.jit
    def loss(scale: jax.Array) -> tuple[jax.Array, jax.Array]:
        options: dict[str, Any] = {"scale": scale, "log_prior": PRIOR}
        plain = losses.nca(COSINES, LABELS, **options)
        return plain, losses.nca(COSINES, LABELS, **options, reference_quirks=True)

    check_grads(loss, (np.float32(3.0),), order=1, modes="rev", eps=1e-2, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("quirks", [False, True])
def test_nca_with_one_class_is_flat(quirks: bool) -> None:
    prior = np.array([1.0, -np.inf, -np.inf])

    def loss(s: ArrayLike, scale: float) -> Any:
        return jitted.nca(s, np.array([0]), scale=scale, log_prior=prior, reference_quirks=quirks)

    s = np.array([[0.3, 0.9, -0.2]])
    np.testing.assert_array_equal(loss(s, 2.0), 0.0)
    for argnum in (0, 1):
        np.testing.assert_array_equal(total_grad(loss, argnum)(s, 2.0), 0.0)
