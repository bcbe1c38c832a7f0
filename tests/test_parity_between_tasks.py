"""What methods do before and after the training of a task, against float64 versions in numpy."""

import dataclasses

import numpy as np
import pytest
from method_tools import FakeProbe
from parity_problem import (
    Case,
    exemplars,
    make_model,
    make_trainer,
    normalised,
    product_model,
)
from reference.network import network, unit
from reference.problem import Model
from reference.tape import var
from scipy.optimize import minimize

from bsce_jax.methods import ModelState
from bsce_jax.methods.bic import fit_bias

OLD, SEEN = 4, 6


def hook(case: Case, name: str) -> tuple[Model, ModelState]:
    """Call a method's hook in the third task; return the model before and after it."""
    trainer = make_trainer(case)
    problem = trainer.problem
    start = make_model(case, 1)
    task = problem.task_info(case.task, exemplars(problem, OLD))
    probe = trainer.probe(problem.network)
    after: ModelState = getattr(problem.method, name)(product_model(start), task, probe)
    return start, after


def unit_features(case: Case, start: Model, position: int) -> np.ndarray:
    """The features of a class's images, in eval mode and at unit length, [n, D] float64."""
    problem = make_trainer(case).problem
    params = {name: var(value) for name, value in start.params.items()}
    images = normalised(problem.records[position])
    head = problem.method.head
    out, _ = network(params, start.stats, images, head=head, batch_statistics=False)
    return unit(out.features).value


def mean_length(vectors: np.ndarray) -> float:
    return float(np.mean(np.sqrt((vectors**2).sum(-1))))


def same_rows(after: ModelState, start: Model, new: list[np.ndarray]) -> None:
    weight, before = np.asarray(after.params["head"]["weight"]), start.params["head/weight"]
    np.testing.assert_array_equal(weight[:OLD], before[:OLD])
    np.testing.assert_array_equal(weight[SEEN:], before[SEEN:])
    np.testing.assert_allclose(weight[OLD:SEEN], new, rtol=1e-4, atol=1e-6)


def test_lucir_imprints_mean_directions_of_the_old_vectors_mean_length() -> None:
    case = Case("lucir")
    start, after = hook(case, "begin_task")
    length = mean_length(start.params["head/weight"][:OLD])
    expected = []
    for position in (4, 5):
        mean = unit_features(case, start, position).mean(0)
        expected.append(length * mean / np.sqrt((mean**2).sum()))
    same_rows(after, start, expected)


def test_podnet_repeats_the_images_of_a_class_with_fewer_than_proxies() -> None:
    case = Case("podnet")
    start, after = hook(case, "begin_task")
    length = mean_length(start.params["head/weight"][:OLD])
    images = [unit_features(case, start, position) for position in (4, 5)]  # 8 and 7
    same_rows(after, start, [length * part[np.arange(10) % len(part)] for part in images])


def test_podnet_imprints_kmeans_centres_times_the_old_vectors_mean_length() -> None:
    """inclearn, `add_imprinted_classes`: a centre's own norm, below 1, is kept."""
    case = Case("podnet")
    problem = make_trainer(case).problem
    rng = np.random.default_rng(0)
    bunches = rng.normal(size=(2, 10, 8))
    table = (bunches[:, :, None] + 0.4 * rng.normal(size=(2, 10, 12, 8))).reshape(240, 8)
    task = dataclasses.replace(
        problem.task_info(case.task, exemplars(problem, OLD)),
        labels=np.repeat([4, 5], 120),
        train=np.arange(240),
    )
    start = make_model(case, 1)
    after = problem.method.begin_task(product_model(start), task, FakeProbe(table))
    length = mean_length(start.params["head/weight"][:OLD])
    centres = np.asarray(after.params["head"]["weight"], np.float64)[OLD:SEEN] / length
    directions = table / np.sqrt((table**2).sum(-1, keepdims=True))
    for own, centre in zip(np.split(directions, 2), centres, strict=True):
        nearest = ((own[:, None] - centre) ** 2).sum(-1).argmin(1)
        means = [own[nearest == proxy].mean(0) for proxy in range(10)]
        np.testing.assert_allclose(centre, means, rtol=1e-4, atol=1e-5)
    assert 0.85 < mean_length(centres) < 0.99


def test_wa_aligns_the_new_vectors() -> None:
    """PyCIL, `weight_align`: gamma = mean norm of the old vectors / mean norm of the new ones."""
    start, after = hook(Case("wa"), "end_training")
    weight = start.params["head/weight"]
    gamma = mean_length(weight[:OLD]) / mean_length(weight[OLD:SEEN])
    assert abs(gamma - 1) > 0.01
    same_rows(after, start, list(gamma * weight[OLD:SEEN]))
    np.testing.assert_array_equal(after.params["head"]["bias"], start.params["head/bias"])


def biased_logits(per_class: int, bias: float, signal: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits of 50 old and 10 new classes, the new ones too high, and labels."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(60), per_class)
    logits = 1.5 * rng.normal(size=(len(labels), 60))
    logits[np.arange(len(labels)), labels] += signal
    logits[:, 50:] = (logits[:, 50:] + bias) * 1.25
    return logits, labels


def cross_entropy(numbers: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> float:
    """BiC, equation 5."""
    corrected = np.copy(logits)
    corrected[:, 50:] = numbers[0] * logits[:, 50:] + numbers[1]
    p = np.exp(corrected) / np.exp(corrected).sum(1, keepdims=True)
    return -float(np.log(p[np.arange(len(labels)), labels]).sum())


@pytest.mark.parametrize(("per_class", "tolerance"), [(2, 0.03), (20, 0.005)])
def test_bic_fits_equation_5(per_class: int, tolerance: float) -> None:
    logits, labels = biased_logits(per_class, bias=3.0, signal=3.5)
    exact = minimize(
        cross_entropy,
        [1.0, 0.0],
        (logits, labels),
        method="Nelder-Mead",
        options={"xatol": 1e-6, "fatol": 1e-6},
    ).x
    assert exact[1] < -4
    found = fit_bias(logits.astype(np.float32), labels, np.arange(60) >= 50)
    np.testing.assert_allclose(found, exact, rtol=tolerance)


def test_bic_stays_finite_where_equation_5_has_no_minimum() -> None:
    logits, labels = biased_logits(2, bias=3.0, signal=10.0)  # greater numbers are ever better
    found = fit_bias(logits.astype(np.float32), labels, np.arange(60) >= 50)
    assert np.abs(found).max() < 10
    start = np.array([1.0, 0.0])
    assert cross_entropy(np.array(found), logits, labels) <= cross_entropy(start, logits, labels)
