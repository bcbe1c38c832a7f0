"""What every loss promises alike: transformations, precision, absent classes, meshes, bad input."""

import doctest
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import loss_cases
import numpy as np
import pytest
from loss_cases import (
    CASES,
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
    arguments,
    by_example,
    everything,
    total_grad,
)

from bsce_jax import losses

ROOT = Path(__file__).resolve().parents[1]
# Those that leave class 2 out, given as arrays that do not vary from row to row.
MASKED = [
    "prior",
    "balanced",
    "separated",
    "binary",
    "binary_distillation",
    "distillation",
    "taskwise",
    "margin_ranking",
    "nca",
    "nca_quirks",
]
WITH_LABELS = [name for name, (_, args) in CASES.items() if args[1] is LABELS]
WITH_TEACHER = ["binary_distillation", "distillation", "taskwise", "less_forget", "pod_spatial"]
WITH_TEACHER += ["pod_pixel"]

cases = pytest.mark.parametrize("name", CASES)
masked_cases = pytest.mark.parametrize("name", MASKED)


def test_every_loss_has_a_case() -> None:
    public = {n for n, _ in inspect.getmembers(losses, inspect.isfunction) if n[0] != "_"}
    assert public == set(re.findall(r"losses\.(\w+)", inspect.getsource(loss_cases)))


@cases
def test_the_batch_agrees_with_its_examples(name: str) -> None:
    loss, args = CASES[name]
    value, _ = by_example(name)(*args)
    batch = jax.jit(loss)(*args)
    assert batch.shape == (B,)
    np.testing.assert_allclose(batch, value, rtol=1e-5, atol=1e-6)


@cases
def test_gradient_is_the_slope_of_the_loss(name: str) -> None:
    student, *rest = CASES[name][1]
    step = 0.01 * np.random.default_rng(2).normal(size=student.shape).astype(np.float32)
    up, down = (by_example(name)(student + sign * step, *rest)[0] for sign in (1, -1))
    _, gradient = by_example(name)(student, *rest)
    expected = (gradient * step).reshape(B, -1).sum(axis=1)
    np.testing.assert_allclose((up - down) / 2, expected, rtol=2e-3, atol=2e-6)


@cases
def test_bfloat16_is_computed_in_float32(name: str) -> None:
    low = [a.astype(jnp.bfloat16) if a.dtype == np.float32 else a for a in CASES[name][1]]
    same = [a.astype(np.float32) if a.dtype == jnp.bfloat16 else a for a in low]
    value, gradient = by_example(name)(*low)
    exact_value, exact_gradient = by_example(name)(*same)
    assert (value.dtype, gradient.dtype) == (jnp.float32, jnp.bfloat16)
    np.testing.assert_allclose(value, exact_value, rtol=1e-6)
    np.testing.assert_allclose(gradient.astype(np.float32), exact_gradient, rtol=2**-7, atol=1e-6)


@pytest.mark.parametrize("name", WITH_TEACHER)
def test_the_teacher_gets_no_gradient(name: str) -> None:
    loss, args = CASES[name]
    teachers = tuple(range(len(args) // 2, len(args)))
    for gradient in total_grad(loss, teachers)(*args):
        np.testing.assert_array_equal(gradient, 0.0)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
@masked_cases
def test_absent_class_takes_no_part_whatever_its_logit(name: str, dtype: Any) -> None:
    values, other = CASES[name][1]
    poisoned, without = values.astype(dtype), values.astype(dtype)
    poisoned[:, 2] = [1e38, np.inf, -np.inf, np.nan]
    without[:, 2] = 0.0
    value, gradient = by_example(name)(poisoned, other)
    expected_value, expected_gradient = by_example(name)(without, other)
    np.testing.assert_array_equal(value, expected_value)
    np.testing.assert_array_equal(gradient, expected_gradient)
    np.testing.assert_array_equal(gradient[:, 2], 0.0)
    assert np.isfinite(gradient).all()
    assert (gradient != 0).any()


def test_a_new_task_compiles_nothing_anew() -> None:
    traces = []

    @jax.jit
    def step(z: Any, t: Any, y: Any, counts: Any, tasks: Any, old: Any, tau: Any) -> jax.Array:
        traces.append(1)
        prior = losses.class_log_prior(counts, tau=tau)
        return (
            losses.softmax_cross_entropy(z, y, prior)
            + losses.separated_softmax_cross_entropy(z, y, old, log_prior=prior)
            + losses.distillation(z, t, where=old)
            + losses.taskwise_distillation(z, t, tasks, old)
            + losses.margin_ranking(z, y, old, seen=counts > 0)
            + losses.nca(z, y, scale=2.0, log_prior=prior)
        )

    labels = np.array([0, 1, 0, 1])
    first = np.array([9, 9, 0, 0, 0]), np.array([0, 0, 1, 1, 2]), np.arange(C) < 0, 1.0
    second = np.array([2, 2, 9, 9, 0]), np.array([0, 0, 1, 1, 2]), np.arange(C) < 2, 0.5
    for task in (first, second):
        assert np.isfinite(step(LOGITS, TEACHER, labels, *task)).all()
    assert len(traces) == 1


# Meshes and strict settings of jax


@pytest.fixture(scope="module")
def reference() -> dict[str, tuple[jax.Array, ...]]:
    return everything(arguments())


def check(results: dict[str, tuple[Any, ...]], expected: dict[str, tuple[Any, ...]]) -> None:
    for name in expected:
        for got, want in zip(results[name], expected[name], strict=True):
            got, want = np.asarray(got, np.float32), np.asarray(want, np.float32)
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_batch_sharded_over_an_explicit_axis_gives_the_same_numbers(
    reference: dict[str, tuple[jax.Array, ...]], tmp_path: Path
) -> None:
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
        "JAX_NUM_CPU_DEVICES": "2",
    }
    program: list[str | Path] = [
        sys.executable,
        ROOT / "tests" / "losses_on_a_mesh.py",
        tmp_path / "results.npz",
    ]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    saved = np.load(tmp_path / "results.npz")
    check({n: tuple(saved[f"{n}/{i}"] for i in range(2)) for n in reference}, reference)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_no_rank_or_dtype_is_promoted(dtype: Any) -> None:
    args = arguments(dtype)
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        results = everything(args)
    check(results, everything(args))


def test_results_are_float32_under_x64() -> None:
    with jax.enable_x64(True):
        shapes = jax.eval_shape(everything, arguments(np.float64))
    assert {s.dtype for name, (s, _) in shapes.items() if name != "learned"} == {
        np.dtype("float32")
    }


# Labels and bad input


@pytest.mark.parametrize("name", WITH_LABELS)
def test_labels_outside_the_classes_cost_nan(name: str) -> None:
    loss, (scores, labels, *rest) = CASES[name]
    expected = jax.jit(loss)(scores, labels, *rest)
    for outside in (-1, C, -C, 2**31 - 1):
        wrong = np.where([True, False, True, False], outside, labels)
        np.testing.assert_array_equal(
            jax.jit(loss)(scores, wrong, *rest), np.where(wrong == outside, np.nan, expected)
        )


@pytest.mark.parametrize("name", WITH_LABELS)
def test_labels_may_be_any_integers_or_whole_floats(name: str) -> None:
    loss, (scores, labels, *rest) = CASES[name]
    expected = jax.jit(loss)(scores, labels, *rest)
    for dtype in (np.uint8, np.int16, np.float32, jnp.bfloat16):
        np.testing.assert_array_equal(jax.jit(loss)(scores, labels.astype(dtype), *rest), expected)
    broken = labels + np.array([0.0, 0.5, -0.25, np.nan], np.float32)
    np.testing.assert_array_equal(
        jax.jit(loss)(scores, broken, *rest), np.where(broken == labels, expected, np.nan)
    )


def test_small_integers_as_labels_of_many_classes() -> None:
    logits = np.zeros((1, 300), np.float32)
    logits[0, 44] = 1e3  # 300 classes as uint8 would wrap: 44 would be class 44 and class 300
    np.testing.assert_array_equal(losses.softmax_cross_entropy(logits, np.array([44], np.uint8)), 0)


@pytest.mark.parametrize("outside", [-1, C, C + 1, -C, 99])
def test_a_task_outside_the_range_costs_nan(outside: int) -> None:
    tasks = np.where([True, False, False, False, False], outside, TASKS)
    loss = jax.jit(losses.taskwise_distillation)
    assert np.isnan(loss(LOGITS, TEACHER, tasks, SEEN)).all()
    # Where the class is not old, the number is free.
    expected = loss(LOGITS, TEACHER, TASKS, SEEN & (TASKS == 1))
    free = loss(LOGITS, TEACHER, tasks, SEEN & (TASKS == 1))
    np.testing.assert_array_equal(free, expected)


ONE_HOT = np.eye(C)[LABELS]
LABELLED: dict[str, Callable[[Any], Any]] = {
    "softmax": lambda y: losses.softmax_cross_entropy(LOGITS, y),
    "balanced": lambda y: losses.balanced_softmax_cross_entropy(LOGITS, y, COUNTS),
    "separated": lambda y: losses.separated_softmax_cross_entropy(LOGITS, y, OLD),
    "binary": lambda y: losses.binary_cross_entropy(LOGITS, y),
    "margin_ranking": lambda y: losses.margin_ranking(COSINES, y, OLD),
    "nca": lambda y: losses.nca(COSINES, y, scale=1.0),
}


@pytest.mark.parametrize("name", LABELLED)
def test_labels_of_another_kind_are_refused(name: str) -> None:
    for wrong, error, message in [
        (ONE_HOT, ValueError, r"labels has shape \(4, 5\); want \(4,\)"),
        (LABELS[:1], ValueError, r"labels has shape \(1,\); want \(4,\)"),
        (LABELS[:, None], ValueError, r"labels has shape \(4, 1\); want \(4,\)"),
        (0, ValueError, r"labels has shape \(\); want \(4,\)"),
        (LABELS == 0, TypeError, r"labels has dtype bool; want integer or floating"),
    ]:
        with pytest.raises(error, match=message):
            jax.eval_shape(LABELLED[name], wrong)


def test_labels_too_coarse_to_tell_the_classes_apart_are_refused() -> None:
    labels = jnp.zeros(B, jnp.bfloat16)
    jax.eval_shape(losses.softmax_cross_entropy, np.zeros((B, 257)), labels)
    with pytest.raises(TypeError, match="labels has dtype bfloat16, too coarse for 258 classes"):
        jax.eval_shape(losses.softmax_cross_entropy, np.zeros((B, 258)), labels)


ONE, NUMBERS = COUNTS[:1], np.ones(C, np.float32)
BAD_SHAPES: dict[str, Callable[[], Any]] = {
    "counts (1,)": lambda: losses.balanced_softmax_cross_entropy(LOGITS, LABELS, ONE),
    "counts (4, 5)": lambda: losses.balanced_softmax_cross_entropy(LOGITS, LABELS, LOGITS),
    "counts ()": lambda: losses.class_log_prior(3),
    "seen (1,)": lambda: losses.class_log_prior(COUNTS, seen=SEEN[:1]),
    "floor (1,)": lambda: losses.class_log_prior(COUNTS, floor=ONE),
    "tau (5,)": lambda: losses.class_log_prior(COUNTS, tau=NUMBERS),
    "logits ()": lambda: losses.softmax_cross_entropy(1.0, 0),
    "log_prior (1,)": lambda: losses.softmax_cross_entropy(LOGITS, LABELS, PRIOR[:1]),
    "log_prior (4, 1)": lambda: losses.softmax_cross_entropy(LOGITS, LABELS, LOGITS[:, :1]),
    "old (1,)": lambda: losses.separated_softmax_cross_entropy(LOGITS, LABELS, OLD[:1]),
    "old (4, 5)": lambda: losses.separated_softmax_cross_entropy(LOGITS, LABELS, LOGITS > 0),
    "seen (4, 1)": lambda: losses.binary_cross_entropy(LOGITS, LABELS, LOGITS[:, :1] > 0),
    "teacher_logits (1, 5)": lambda: losses.binary_distillation(LOGITS, TEACHER[:1]),
    "where (1,)": lambda: losses.binary_distillation(LOGITS, TEACHER, where=SEEN[:1]),
    "teacher_logits (4, 1)": lambda: losses.distillation(LOGITS, TEACHER[:, :1]),
    "where ()": lambda: losses.distillation(LOGITS, TEACHER, where=np.True_),
    "temperature (4,)": lambda: losses.distillation(LOGITS, TEACHER, temperature=jnp.ones(B)),
    "teacher_logits (4,)": lambda: losses.taskwise_distillation(LOGITS, TEACHER[:, 0], TASKS, OLD),
    "task_of_class (1,)": lambda: losses.taskwise_distillation(LOGITS, TEACHER, TASKS[:1], OLD),
    "old (4,)": lambda: losses.taskwise_distillation(LOGITS, TEACHER, TASKS, OLD[:4]),
    "features ()": lambda: losses.less_forget(1.0, 1.0),
    "teacher_features (1, 5)": lambda: losses.less_forget(LOGITS, TEACHER[:1]),
    "old ()": lambda: losses.margin_ranking(COSINES, LABELS, np.True_),
    "seen (3,)": lambda: losses.margin_ranking(COSINES, LABELS, OLD, seen=SEEN[:3]),
    "margin (4,)": lambda: losses.margin_ranking(
        COSINES,
        LABELS,
        OLD,
        margin=NUMBERS[:4],  # type: ignore[arg-type]  # the mistake that is to be noticed
    ),
    "maps[0] (4, 5)": lambda: losses.pod_spatial([LOGITS], [LOGITS]),
    "teacher_maps[1] (3, 2, 2)": lambda: losses.pod_spatial(MAPS[:2], [MAPS[2], MAPS[3][0]]),
    "scale (5,)": lambda: losses.nca(COSINES, LABELS, scale=NUMBERS),
    "margin (5,)": lambda: losses.nca(COSINES, LABELS, scale=1.0, margin=NUMBERS),
    "log_prior ()": lambda: losses.nca(COSINES, LABELS, scale=1.0, log_prior=1.0),
}


@pytest.mark.parametrize("argument", BAD_SHAPES)
def test_a_wrong_shape_is_refused_by_the_name_of_the_argument(argument: str) -> None:
    name, shape = argument.split(" ", 1)
    with pytest.raises(ValueError, match=re.escape(f"{name} has shape {shape}; want ")):
        jax.eval_shape(BAD_SHAPES[argument])


BAD_DTYPES: dict[str, Callable[[], Any]] = {
    "logits bool": lambda: losses.softmax_cross_entropy(LOGITS > 0, LABELS),
    "log_prior bool": lambda: losses.softmax_cross_entropy(LOGITS, LABELS, SEEN),
    "counts bool": lambda: losses.balanced_softmax_cross_entropy(LOGITS, LABELS, SEEN),
    "seen float32": lambda: losses.binary_cross_entropy(LOGITS, LABELS, PRIOR),
    "old int32": lambda: losses.margin_ranking(COSINES, LABELS, np.arange(C, dtype=np.int32)),
    "where float32": lambda: losses.distillation(LOGITS, TEACHER, where=PRIOR),
    "task_of_class bool": lambda: losses.taskwise_distillation(LOGITS, TEACHER, OLD, TASKS),
    "teacher_features complex64": lambda: losses.less_forget(LOGITS, TEACHER.astype(np.complex64)),
}


@pytest.mark.parametrize("argument", BAD_DTYPES)
def test_a_wrong_dtype_is_refused_by_the_name_of_the_argument(argument: str) -> None:
    name, dtype = argument.split()
    with pytest.raises(TypeError, match=f"{name} has dtype {dtype}; want "):
        jax.eval_shape(BAD_DTYPES[argument])


def test_maps_come_in_lists_of_one_length() -> None:
    with pytest.raises(TypeError, match="maps is of type ndarray; want a list"):
        losses.pod_spatial(MAPS[0], [MAPS[1]])  # type: ignore[arg-type]  # what is tested
    for maps, teacher_maps in [(MAPS, MAPS[:1]), ([], [])]:
        message = f"maps has {len(maps)} stages and teacher_maps has {len(teacher_maps)}"
        with pytest.raises(ValueError, match=message):
            losses.pod_spatial(maps, teacher_maps)


def test_a_ranking_has_a_rival() -> None:
    with pytest.raises(ValueError, match="k is 0; want 1 or more"):
        losses.margin_ranking(COSINES, LABELS, OLD, k=0)


# The module


def test_docstring_examples() -> None:
    results = doctest.testmod(losses)
    assert results.attempted >= 10
    assert results.failed == 0


def test_importing_losses_loads_jax_only() -> None:
    heavy = ["flax", "optax", "orbax", "tensorflow", "tensorflow_datasets", "grain"]
    code = f"import sys, bsce_jax.losses; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
