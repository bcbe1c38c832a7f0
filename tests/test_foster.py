"""FOSTER: two branches are trained, one is kept, and the weights follow the numbers of images."""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np
import pytest
from method_tools import info
from tiny_run import assert_same_run, make_config, run_with_interruption, some_digits, weights

from bsce_jax.methods import ModelState
from bsce_jax.methods.foster import FOSTER, class_weights
from bsce_jax.models import infer, make_model
from bsce_jax.training import loop
from bsce_jax.training.loop import run
from bsce_jax.training.problem import Problem
from bsce_jax.training.trainer import Trainer

DATA = some_digits(12, 4)
FIELDS = {
    "scenario.base": 4,
    "scenario.increment": 3,
    "method.compression_epochs": 2,
}
IMAGES = jax.random.normal(jax.random.key(1), (3, 8, 8, 1))
PROBE: Any = None  # the hooks do not use it


def fresh() -> tuple[Any, ModelState]:
    method = FOSTER()
    base = make_model("tiny", head="linear", num_classes=6, dtype="float32")
    network = method.network(base, 0, 3)
    variables = network.init(jax.random.key(0), IMAGES, train=False)
    extra = method.init_extra(variables["params"], 6)
    model = ModelState(variables["params"], variables["batch_stats"], extra)
    return network, method.begin_task(model, info([0, 1], 0, 2, index=0), PROBE)


def test_the_class_weights_by_hand() -> None:
    """Of 1 and 2 images with beta 0.5: 1 and 0.5 / 0.75, over their mean of 5 / 6."""
    np.testing.assert_allclose(class_weights(np.array([1, 2]), 0.5), [6 / 5, 4 / 5], rtol=1e-6)
    # the published protocol: 20 exemplars and 500 images, beta 0.96
    ratio = np.divide(*class_weights(np.array([20, 500]), 0.96))
    np.testing.assert_allclose(ratio, 1 / (1 - 0.96**20), rtol=1e-5)
    np.testing.assert_array_equal(class_weights(np.array([0, 1]), 0.96), [1, 1])


def test_boosting_starts_from_the_frozen_network_and_knows_its_logits() -> None:
    network, model = fresh()
    before = infer(network, model.variables, IMAGES)
    assert not np.asarray(model.params["head"]["weight"])[:, 64:].any()
    task = info([0, 0, 1, 2, 2, 2, 3], 2, 4, index=1)
    model = FOSTER().begin_task(model, task, PROBE)
    after = infer(network, model.variables, IMAGES)
    assert int(model.batch_stats["count"]) == 1
    for half in (slice(64), slice(64, None)):  # a copy of the network beside it
        np.testing.assert_allclose(after.features[:, half], before.features[:, :64], rtol=1e-5)
    head = model.extra["head"]
    logits = after.features[:, :64] @ head["weight"].T + head["bias"][None]
    np.testing.assert_allclose(logits[:, :2], before.logits[:, :2], rtol=1e-5)
    weights = np.asarray(model.extra["weights"]["logits"])
    np.testing.assert_allclose(weights[:4], class_weights(np.array([2, 1, 3, 1]), 0.96), rtol=1e-6)
    np.testing.assert_array_equal(weights[4:], 1)


def test_compression_starts_from_the_frozen_network_alone() -> None:
    network, first = fresh()
    before = infer(network, first.variables, IMAGES)
    model = FOSTER().begin_task(first, info([2, 3], 2, 4, index=1), PROBE)
    trained = jax.tree.map(lambda leaf: leaf + 0.1, model.params)
    model = dataclasses.replace(model, params=trained)
    single = FOSTER().restart(model, info([2, 3], 2, 4, index=1), PROBE)
    after = infer(network, single.variables, IMAGES)
    assert int(single.batch_stats["count"]) == 0
    np.testing.assert_allclose(after.features, before.features, rtol=1e-5)
    np.testing.assert_allclose(after.logits[:, :2], before.logits[:, :2], rtol=1e-5)
    weight = np.asarray(single.params["head"]["weight"])
    assert weight[2:4, :64].all()
    assert not weight[:, 64:].any()
    np.testing.assert_array_equal(single.params["head"]["bias"][2:], 0)


def test_a_run_ends_each_task_with_one_network(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    class Noted(Trainer):
        def __init__(self, problem: Problem):
            super().__init__(problem)
            made.append(self)

    monkeypatch.setattr(loop, "Trainer", Noted)
    results = run(make_config("foster", fields=FIELDS), tmp_path / "run", DATA)
    assert made[0].compiled == 3  # the first task, boosting and compression
    model = weights(tmp_path / "run", 2)
    assert int(model["batch_stats/count"]) == 0
    assert not model["params/head/weight"][:, 64:].any()
    network = sum(v.size for n, v in model.items() if n.startswith("params/backbone/"))
    assert results["model"]["parameters"] == [network + 65 * seen for seen in (4, 7, 10)]
    assert results["model"]["extra_bytes"] == 4 * 10 * (64 + 1 + 2)


@pytest.mark.parametrize("stage", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_it_resumes_within_both_stages(stage: int, tmp_path: pathlib.Path) -> None:
    made = make_config("foster", fields={**FIELDS, "runtime.checkpoint_epochs": 1})
    run(made, tmp_path / "straight", DATA)
    run_with_interruption(made, DATA, tmp_path / "killed", "killed", task=1, stage=stage, epoch=1)
    assert_same_run(tmp_path / "straight", tmp_path / "killed", 2)


def test_the_compression_has_no_warm_up() -> None:
    fields = {**FIELDS, "train.warmup": 3, "train.epochs": 4}
    problem = Problem(make_config("foster", fields=fields), DATA)
    assert [stage.warmup for stage in problem.all_stages(1)] == [3, 0]  # of 4 and 2 epochs
