"""What all methods share, and the distillation of those that have nothing else."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_tools import (
    CE,
    COUNTS,
    FEATURES,
    KD,
    KEY,
    LABELS,
    NEW,
    OLD,
    REAL,
    RHO,
    SEEN,
    STUDENT,
    TASKS,
    TEACHER,
    TEACHER_FEATURES,
    Array,
    C,
    D,
    FakeProbe,
    Flat,
    assert_terms,
    context,
    cross_entropy,
    divergence,
    f32,
    info,
    make_step,
    model,
    outputs,
    sigmoid,
    terms_of,
)

from bsce_jax.methods import METHODS, Method, Stage, Step
from bsce_jax.methods.ccil import CCIL
from bsce_jax.methods.eeil import EEIL, gradient_noise
from bsce_jax.methods.fetril import FeTrIL
from bsce_jax.methods.icarl import ICaRL, LwFMC
from bsce_jax.methods.il_baseline import ILBaseline
from bsce_jax.methods.joint import Joint
from bsce_jax.methods.lucir import LUCIR
from bsce_jax.methods.lwf import LwF
from bsce_jax.methods.pass_ import PASS
from bsce_jax.methods.podnet import PODNet
from bsce_jax.methods.replay import Replay
from bsce_jax.methods.ss_il import SSIL
from bsce_jax.models import HEADS, Classifier

# --- what every method shares


def test_mean_leaves_padding_out_and_is_zero_for_no_sample() -> None:
    mean, step = jax.jit(Step.mean), make_step()
    values = f32([1, 2, 3, 6, 100])
    assert mean(step, values) == 3
    assert mean(step, values, f32(OLD[LABELS])) == 1.5
    assert mean(step, values, f32([0, 0, 0, 1, 1])) == 6
    assert mean(step, values, f32(np.zeros(5))) == 0
    assert mean(make_step(weights=np.zeros(5)), values) == 0


def test_a_step_without_a_teacher_says_what_to_set() -> None:
    step = dataclasses.replace(make_step(), teacher_outputs=None, teacher_state=None)
    with pytest.raises(ValueError, match=r"see `Method\.teacher` and `Stage\.teacher`"):
        _ = step.teacher
    with pytest.raises(ValueError, match=r"see `Method\.teacher` and `Stage\.teacher`"):
        _ = step.previous


def test_classification_adds_the_prior_and_can_be_confined_to_some_classes() -> None:
    prior = np.array([0.7, 0.7, 0.7, 1.8, 1.4, -np.inf])
    classify = jax.jit(Step.classification)
    step = make_step(task=context(prior=prior))
    expected = cross_entropy(STUDENT + prior, LABELS)[REAL].mean()
    np.testing.assert_allclose(classify(step), expected, rtol=1e-5)
    on_teacher = cross_entropy(TEACHER + prior, LABELS)[REAL].mean()
    np.testing.assert_allclose(classify(step, step.teacher), on_teacher, rtol=1e-5)
    new_images = np.array([3, 4, 4, 3, 3])
    among_new = cross_entropy(STUDENT + prior, new_images, NEW)[REAL].mean()
    step = dataclasses.replace(step, labels=jnp.asarray(new_images))
    np.testing.assert_allclose(classify(step, among=NEW), among_new, rtol=1e-5)


def step_of(kind: type[Method], unseen: float) -> tuple[Method, Step]:
    """A batch for any method, in which only the unseen class depends on the second argument."""
    method = kind()
    network = Classifier(Flat(), HEADS[method.head](C))
    turned = kind is PASS
    if turned:
        network = method.network(network, 1, 3)
    # the columns of the auxiliary logits, and those of the unseen class
    columns, last = {"PASS": (3 * C, 3), "FOSTER": (C, 1)}.get(kind.__name__, (1 + C, 1))
    shapes = jax.eval_shape(functools.partial(network.init, train=True), KEY, jnp.ones((1, D)))
    rng = np.random.default_rng(2)
    heads: dict[str, dict[str, Array]] = {}
    for part, values in shapes["params"].items():
        heads[part] = {name: rng.normal(size=x.shape) for name, x in values.items()}
        heads[part]["weight"][-last if part == "auxiliary" else -1 :] = unseen
    params = jax.tree.map(f32, heads)
    extra = method.init_extra(params, C)
    logits, teacher_logits = STUDENT.copy(), TEACHER.copy()
    logits[:, 5] = teacher_logits[:, 5] = unseen
    maps, teacher_maps = (np.float32(x).reshape(5, 2, 1, 1) for x in (FEATURES, TEACHER_FEATURES))
    auxiliary = rng.normal(size=(5, columns))
    auxiliary[:, -last:] = unseen
    student = outputs(logits, FEATURES, (maps,))
    step = make_step(
        student=dataclasses.replace(student, auxiliary=f32(auxiliary)),
        teacher=outputs(teacher_logits, TEACHER_FEATURES, (teacher_maps,)),
        loss=kind.loss,
        params=params,
        extra=extra,
        previous=dataclasses.replace(
            model(params, **extra), batch_stats={"importance_0": jnp.ones(1)}
        ),
        network=network,
        replayed=OLD[LABELS],
    )
    return method, dataclasses.replace(step, turns=jnp.arange(5) % 4 if turned else None)


@pytest.mark.parametrize("name", METHODS)
def test_terms_are_traceable_scalars_and_know_nothing_of_unseen_classes(name: str) -> None:
    method, step = step_of(METHODS[name], unseen=0.5)
    traced = jax.jit(method.terms)  # fails if the shape of anything depends on the task
    terms = traced(step)
    for term in terms.values():
        assert (term.shape, term.dtype) == ((), jnp.float32)
        assert np.isfinite(term)
    _, step = step_of(METHODS[name], unseen=50.0)
    assert_terms(traced(step), **{name: float(term) for name, term in terms.items()})


def test_replay_minimises_the_classification_loss_and_nothing_else() -> None:
    assert_terms(terms_of(Replay(), make_step()), classification=CE)


def test_joint_starts_every_task_from_the_initial_state() -> None:
    probe = FakeProbe(FEATURES)
    trained = model({"head": {"weight": jnp.zeros((C, D))}})
    assert Joint().begin_task(trained, info([3, 4], 3, 5, index=1), probe) is probe.initial
    # in the first task it may have the weights of another run
    assert Joint().begin_task(trained, info([0, 1, 2], 0, 3, index=0), probe) is trained


# --- distillation


def test_il_baseline_adds_the_terms_or_weighs_them_by_the_share_of_old_classes() -> None:
    """Each with the plain KL: a quarter of T^2 KL at T = 2."""
    assert_terms(terms_of(ILBaseline(), make_step()), classification=CE, distillation=KD / 4)
    assert_terms(
        terms_of(ILBaseline(weighting="convex"), make_step()),
        classification=(1 - RHO) * CE,
        distillation=RHO * KD / 4,
    )
    heavier = terms_of(ILBaseline(distillation=1.0), make_step())
    assert_terms(heavier, classification=CE, distillation=KD)


def test_the_prior_enters_classification_and_not_distillation() -> None:
    prior = np.log(np.where(SEEN, COUNTS, 1e-30))
    prior[5] = -np.inf
    step = make_step(task=context(prior=prior), loss="balanced_softmax")
    balanced = cross_entropy(STUDENT + prior, LABELS)[REAL].mean()
    assert abs(balanced - CE) > 0.02
    assert_terms(terms_of(ILBaseline(), step), classification=balanced, distillation=KD / 4)


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
    assert_terms(terms_of(ICaRL(), make_step()), classification=CE, distillation=KD / 4)


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


MAIN = Stage(
    name="training",
    terms=Method().terms,
    epochs=160,
    learning_rate=0.1,
    schedule="cosine",
    milestones=(0.5, 0.75),
    decay=0.1,
    teacher="previous",
)
EVERYTHING = ("backbone", "head")


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (EEIL(), dict(epochs=30, learning_rate=0.01, schedule="cosine", trainable=EVERYTHING)),
        (
            LUCIR(finetune_epochs=20),
            dict(epochs=20, learning_rate=0.01, schedule="step", milestones=(0.5,), decay=0.1)
            | dict(trainable=("head/weight",), batch_norm="frozen", freeze_old_rows=False),
        ),
        (
            PODNet(),
            dict(epochs=20, learning_rate=0.05, schedule="constant", trainable=("head/weight",))
            | dict(batch_norm="train", freeze_old_rows=False),
        ),
        (EEIL(finetune_epochs=0), None),
        (LUCIR(), None),
        (PODNet(finetune_epochs=0), None),
        (SSIL(), None),
        (ILBaseline(), None),
    ],
)
def test_the_balanced_stage_is_that_of_the_references(
    method: Method, expected: dict[str, Any] | None
) -> None:
    assert len(method.stages(MAIN, 0)) == 1, "the first task is balanced"
    main, *more = method.stages(MAIN, 1)
    assert main.records == "task"
    if expected is None:
        assert not more
        return
    (stage,) = more
    assert stage.records == "memory"
    assert stage.balances
    assert {name: getattr(stage, name) for name in expected} == expected


def test_what_stays_as_it_is_in_later_tasks() -> None:
    for method in (LUCIR(), PODNet()):
        assert method.stages(MAIN, 1)[0].freeze_old_rows
    (fetril,) = FeTrIL().stages(MAIN, 1)
    assert (fetril.trainable, fetril.batch_norm) == (("head",), "frozen")
    assert FeTrIL().stages(MAIN, 0)[0].trainable == EVERYTHING
    assert Joint().stages(MAIN, 1)[0].records == "all"


def test_the_noise_of_eeil_falls_with_the_epochs_and_the_size_of_the_batch() -> None:
    transform = gradient_noise(0.3)
    gradient = {"weight": jnp.full((100, 100), 2.0)}

    @jax.jit
    def noisy(epoch: int, images: float) -> jax.Array:
        changed, _ = transform.update(
            gradient,
            transform.init(gradient),
            gradient,
            key=jax.random.key(0),
            epoch=jnp.asarray(epoch),
            images=jnp.asarray(images),
        )
        return changed["weight"] - 2.0

    first = noisy(0, 4.0)
    np.testing.assert_allclose(jnp.std(first), 0.3 / 4, rtol=0.02)
    np.testing.assert_allclose(jnp.mean(first), 0.0, atol=0.3 / 4 * 0.03)
    np.testing.assert_allclose(noisy(0, 8.0), first / 2, atol=1e-6)
    np.testing.assert_allclose(noisy(9, 4.0), first / 10**0.55, atol=1e-6)
    assert not jnp.any(noisy(0, 4.0) != first)  # by the key alone


def test_ccil_scores_new_images_among_new_classes_and_exemplars_among_all() -> None:
    """Samples 0, 1 and 3 are exemplars of the classes 0, 2 and 4, sample 2 is a new image of 3."""
    replayed = np.array([True, True, False, True, False])
    step = make_step(replayed=replayed)
    new = cross_entropy(STUDENT, LABELS, NEW)[2]
    again = cross_entropy(STUDENT, LABELS)[[0, 1, 3]].mean()
    apart = divergence(STUDENT, TEACHER)
    distilled = (5 / 2) ** 0.66 / 3 * (apart[2] + apart[[0, 1, 3]].mean())
    assert_terms(
        terms_of(CCIL(distillation=2.0), step),
        classification=new + again,
        distillation=2 * distilled,
    )
    mixed = make_step(replayed=np.zeros(5, bool))  # without a part of their own
    news = cross_entropy(STUDENT, LABELS, NEW)[[2, 3]].mean()
    found = terms_of(CCIL(), mixed)["classification"]
    np.testing.assert_allclose(
        found, news + cross_entropy(STUDENT, LABELS)[[0, 1]].mean(), rtol=1e-5
    )
    counts = np.where(SEEN, COUNTS, 1)
    task = context(prior=np.where(SEEN, np.log(counts), -np.inf))
    balanced = make_step(replayed=replayed, loss="balanced_softmax", task=task)
    assert_terms(
        terms_of(CCIL(distillation=2.0), balanced),
        classification=cross_entropy(STUDENT + np.log(counts), LABELS)[REAL].mean(),
        distillation=2 * distilled,
    )
