"""Methods that correct the head: weight aligning, bias correction, cosine heads."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from method_tools import (
    CE,
    FEATURES,
    KD,
    LABELS,
    NEW,
    REAL,
    RHO,
    SEEN,
    STUDENT,
    TEACHER,
    Array,
    C,
    D,
    FakeProbe,
    assert_terms,
    context,
    cross_entropy,
    divergence,
    f32,
    info,
    log_softmax,
    make_step,
    model,
    outputs,
    terms_of,
)

from bsce_jax import losses
from bsce_jax.methods.bic import BiC, fit_bias
from bsce_jax.methods.lucir import LUCIR
from bsce_jax.methods.podnet import PODNet
from bsce_jax.methods.wa import WA

# --- corrections of the head


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
    assert_terms(
        terms_of(WA(), make_step()), classification=(1 - RHO) * CE, distillation=RHO * KD / 4
    )


def biased(alpha: float, beta: float, count: int = 8000) -> tuple[Array, Array]:
    """Logits of the five seen classes, and labels drawn from their corrected softmax."""
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(count, 5)) * 2
    corrected = np.where(NEW[:5], alpha * logits + beta, logits)
    gumbel = rng.gumbel(size=corrected.shape)
    return logits, (corrected + gumbel).argmax(axis=1)


def test_bic_finds_the_bias_that_was_put_in() -> None:
    logits, labels = biased(0.6, -1.2)
    alpha, beta = fit_bias(logits.astype(np.float32), labels, NEW[:5])
    assert abs(alpha - 0.6) < 0.05
    assert abs(beta + 1.2) < 0.1
    assert math.hypot(*slope(logits, labels, alpha, beta)) < 1e-3


def slope(logits: Array, labels: Array, alpha: float, beta: float) -> tuple[float, float]:
    """The derivatives of BiC's objective by alpha and beta, a sample's share, in float64."""
    new = NEW[:5]
    corrected = np.where(new, alpha * logits + beta, logits)
    wrong = np.exp(log_softmax(corrected, np.ones(5, bool))) - np.eye(5)[labels]
    n = len(labels)
    by_alpha = (wrong * logits)[:, new].sum() / n + (alpha - 1) / 100 / n
    return by_alpha, wrong[:, new].sum() / n + beta / 100 / n


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
    alpha, beta = fit_bias(corrected.astype(np.float32), labels[held_out], NEW[:5])
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
        distillation=RHO * divergence(student, teacher)[REAL].mean() / 4,
    )
    np.testing.assert_allclose(BiC().predict(f32(STUDENT), f32(FEATURES), now), student, rtol=1e-5)
    unseen = jnp.array([[1.0, 1.0, 1.0, 1.0, 1.0, -jnp.inf]])
    assert BiC().predict(unseen, f32(FEATURES[:1]), BiC().init_extra({}, C))[0, 5] == -jnp.inf


# --- cosine heads


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
    np.testing.assert_array_equal(weight[~NEW], rows.astype(np.float32)[~NEW])
    length = np.linalg.norm(rows[:3], axis=-1).mean()
    np.testing.assert_allclose(np.linalg.norm(weight[3], axis=-1), length, rtol=0.01)
    # centres of features that point apart are shorter
    assert (np.linalg.norm(weight[4], axis=-1) < length).all()
    near = weight[3] / length @ bunches.T  # each centre lies on one bunch
    np.testing.assert_allclose(near.max(axis=1), 1, atol=0.06)
    again = PODNet().begin_task(before, task, FakeProbe(features))
    np.testing.assert_array_equal(again.params["head"]["weight"], weight)
