"""Runs that share the training of their first task."""

import dataclasses
import json
import pathlib
import shutil
from typing import Any

import numpy as np
import pytest
from tiny_run import assert_same_run, make_config, run_with_interruption, some_digits, weights

from bsce_jax.data import ArraySource
from bsce_jax.errors import UserError
from bsce_jax.runs import model as model_files
from bsce_jax.runs.predictions import read
from bsce_jax.training.loop import run
from bsce_jax.training.problem import Problem

DIGITS = some_digits()
WITHOUT = ("timing", "peak_memory")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run of all classes at once would do too: it has the first of two tasks and another end."""
    folder = tmp_path_factory.mktemp("base") / "run"
    run(make_config("finetune", fields={"runtime.keep_models": "all"}), folder, DIGITS)
    return folder


def test_the_run_is_that_of_its_own_first_task(base: pathlib.Path, tmp_path: pathlib.Path) -> None:
    own, shared = tmp_path / "own", tmp_path / "shared"
    fields = {"runtime.keep_models": "all"}
    wanted = run(make_config("il_baseline", "cross_entropy", fields), own, DIGITS)
    made = make_config("il_baseline", "cross_entropy", {**fields, "train.init_from": str(base)})
    found = run(made, shared, DIGITS)
    assert {k: v for k, v in found.items() if k not in WITHOUT} == {
        k: v for k, v in wanted.items() if k not in WITHOUT
    }
    for task in (0, 1):
        for name, array in weights(own, task).items():
            assert (array == weights(shared, task)[name]).all(), name
    assert 2 * found["timing"]["steps"] < 2 * wanted["timing"]["steps"]
    assert "train" not in found["timing"]["tasks"][0]
    assert "train" in found["timing"]["tasks"][1]


def test_a_first_task_goes_on_with_self_distillation(
    base: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    own, shared = tmp_path / "own", tmp_path / "shared"
    fields = {"runtime.keep_models": "all", "train.self_distillation_epochs": 2}
    wanted = run(make_config("il_baseline", "cross_entropy", fields), own, DIGITS)
    made = make_config("il_baseline", "cross_entropy", {**fields, "train.init_from": str(base)})
    run_with_interruption(made, DIGITS, shared, "killed", task=0, epoch=1)
    for task in (0, 1):
        for name, array in weights(own, task).items():
            assert (array == weights(shared, task)[name]).all(), name
    found = json.loads((shared / "results.json").read_text())
    assert found["cnn"] == json.loads(json.dumps(wanted["cnn"]))
    steps = [[task["steps"] for task in r["timing"]["tasks"]] for r in (found, wanted)]
    assert steps[0][0] * 5 == steps[1][0] * 2  # two epochs of five
    assert steps[0][1] == steps[1][1]


def test_a_first_task_with_self_distillation_is_not_one_without(tmp_path: pathlib.Path) -> None:
    fields: dict[str, Any] = {"train.self_distillation_epochs": 1, "train.epochs": 1}
    fields["runtime.keep_models"] = "all"
    run(make_config("finetune", fields=fields), tmp_path / "base", DIGITS)
    fields["train.init_from"] = str(tmp_path / "base")
    for epochs in (0, 2):
        made = make_config(
            "il_baseline", fields={**fields, "train.self_distillation_epochs": epochs}
        )
        message = f"train.self_distillation_epochs is 1 there and {epochs} here"
        with pytest.raises(UserError, match=message):
            run(made, tmp_path / "run", DIGITS)


def test_joint_training_takes_the_first_task_and_trains_the_others_from_scratch(
    base: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    own, shared = tmp_path / "own", tmp_path / "shared"
    run(make_config("joint"), own, DIGITS)
    run(make_config("joint", fields={"train.init_from": str(base)}), shared, DIGITS)
    for task in (0, 1):
        for found, wanted in zip(read(shared, task), read(own, task), strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_a_run_that_began_with_random_weights_stays_so(
    base: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    run(make_config("il_baseline", "cross_entropy"), tmp_path, DIGITS)
    made = make_config("il_baseline", "cross_entropy", {"train.init_from": str(base)})
    with pytest.raises(UserError, match="the initial weights changed"):
        run(made, tmp_path, DIGITS)
    assert json.loads((tmp_path / "config.json").read_text())["train"]["init_from"] == ""


def test_it_resumes(base: pathlib.Path, tmp_path: pathlib.Path) -> None:
    made = make_config("bic", fields={"train.init_from": str(base)})
    run(made, tmp_path / "straight", DIGITS)
    run_with_interruption(made, DIGITS, tmp_path / "killed", "killed", task=1, epoch=2)
    assert_same_run(tmp_path / "straight", tmp_path / "killed", 1)


def test_more_classes_may_follow(base: pathlib.Path, tmp_path: pathlib.Path) -> None:
    made = make_config("acil", fields={"train.init_from": str(base), "method.width": 16})
    made.scenario.class_order = "0,1,2,3,4,7,8"
    made.scenario.increment = 1
    results = run(made, tmp_path / "run", DIGITS)
    assert [len(task) for task in results["tasks"]] == [5, 1, 1]
    labels, *_ = read(tmp_path / "run", 2)
    assert set(labels.tolist()) == {0, 1, 2, 3, 4, 7, 8}


@pytest.mark.parametrize("method", ["der", pytest.param("il_baseline", marks=pytest.mark.slow)])
def test_a_network_that_grows_may_have_had_another_number_of_tasks(
    method: str, tmp_path: pathlib.Path
) -> None:
    """A first task alone is a run of its own for the study."""
    fields = {"train.epochs": 1, "runtime.keep_models": "all"}
    alone = {**fields, "scenario.class_order": "0,1,2,3", "scenario.increment": 4}
    run(make_config("der", fields={**alone, "scenario.base": 0}), tmp_path / "base", DIGITS)
    fields |= {"scenario.base": 4, "scenario.increment": 2}
    fields["train.init_from"] = str(tmp_path / "base")
    base = weights(tmp_path / "base", 0)
    run(make_config(method, "cross_entropy", fields), tmp_path / method, DIGITS)
    found = weights(tmp_path / method, 0)
    for name in base:
        if "/backbone/" in name:
            np.testing.assert_array_equal(base[name], found[name])
    np.testing.assert_array_equal(
        found["params/head/weight"][:4, :64], base["params/head/weight"][:4, :64]
    )
    assert not found["params/head/weight"][:4, 64:].any()


def test_an_auxiliary_head_of_the_base_is_left_out(tmp_path: pathlib.Path) -> None:
    """The turned images of PASS make a first task for any method with a linear head."""
    fields = {"runtime.keep_models": "all", "train.epochs": 1}
    run(make_config("pass", "cross_entropy", fields), tmp_path / "base", DIGITS)
    fields["train.init_from"] = str(tmp_path / "base")
    run(make_config("acil", fields={**fields, "method.width": 16}), tmp_path / "run", DIGITS)
    base, found = weights(tmp_path / "base", 0), weights(tmp_path / "run", 1)
    assert "params/auxiliary/weight" in base
    for name in base.keys() & found.keys():
        if name.startswith("params/backbone/"):
            np.testing.assert_array_equal(base[name], found[name])
    assert not any(name.startswith("params/auxiliary/") for name in found)


def test_a_first_task_of_pass_keeps_its_turned_classes(tmp_path: pathlib.Path) -> None:
    fields: dict[str, Any] = {"runtime.keep_models": "all", "train.epochs": 1}
    run(make_config("pass", "cross_entropy", fields), tmp_path / "base", DIGITS)
    fields["train.init_from"] = str(tmp_path / "base")
    run(make_config("pass", "cross_entropy", fields), tmp_path / "run", DIGITS)
    for task in (0, 1):
        base, found = weights(tmp_path / "base", task), weights(tmp_path / "run", task)
        for name in base:
            np.testing.assert_array_equal(base[name], found[name], name)


def test_other_settings_of_head_or_loss_are_refused(tmp_path: pathlib.Path) -> None:
    fields: dict[str, Any] = {"runtime.keep_models": "all", "train.epochs": 1}
    run(make_config("podnet", "nca", fields), tmp_path / "base", DIGITS)
    fields["train.init_from"] = str(tmp_path / "base")

    def refused(message: str, loss: str, **more: Any) -> None:
        made = make_config(
            "podnet", loss, {**fields, **{k.replace("__", "."): v for k, v in more.items()}}
        )
        with pytest.raises(UserError, match=message):
            Problem(made, DIGITS)

    refused("the head is lsc_distance there and lsc here", "nca", method__similarity="cosine")
    refused("loss.margin is 0.6 there and 0.5 here", "nca", loss__margin=0.5)
    refused("loss.name is nca there, balanced_softmax here", "balanced_softmax")


def test_the_run_may_be_of_an_earlier_version(base: pathlib.Path, tmp_path: pathlib.Path) -> None:
    older = tmp_path / "older"
    shutil.copytree(base, older)
    (older / "config.json").unlink()
    file = older / "model" / "model.json"
    description = json.loads(file.read_text())
    del description["config"]["train"]["average"], description["sha256"]
    description["sha256"] = model_files.digest(description)
    file.write_text(json.dumps(description))
    run(make_config("acil", fields={"train.init_from": str(older)}), tmp_path / "run", DIGITS)
    made = make_config("acil", fields={"train.init_from": str(older), "train.average": 0.9})
    with pytest.raises(UserError, match=r"train\.average is 0\.0 there and 0\.9 here"):
        run(made, tmp_path / "other", DIGITS)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train.epochs": 4}, "train.epochs is 3 there and 4 here"),
        ({"scenario.base": 4, "scenario.increment": 3}, "the first task has other classes"),
        ({"model.name": "small"}, "model.name is 'tiny' there and 'small' here"),
        ({"runtime.dtype": "bfloat16"}, "runtime.dtype is float32 there and bfloat16 here"),
        ({"model.init": "weights.npz"}, "train.init_from and model.init are given"),
    ],
)
def test_another_first_task_is_refused(
    base: pathlib.Path, tmp_path: pathlib.Path, fields: dict[str, Any], message: str
) -> None:
    made = make_config("il_baseline", fields={"train.init_from": str(base), **fields})
    with pytest.raises(UserError, match=message):
        run(made, tmp_path / "run", DIGITS)
    assert not (tmp_path / "run").exists()


def test_another_head_loss_or_data_is_refused(base: pathlib.Path, tmp_path: pathlib.Path) -> None:
    def refused(message: str, method: str, loss: str, data: Any = DIGITS) -> None:
        made = make_config(method, loss, {"train.init_from": str(base)})
        with pytest.raises(UserError, match=message):
            run(made, tmp_path / method, data)

    refused("the head is linear there and cosine here", "lucir", "cross_entropy")
    refused("loss.name is cross_entropy there", "icarl", "binary_cross_entropy")
    refused("in that of pass an auxiliary head is trained too", "pass", "cross_entropy")
    refused("the data is not the same", "il_baseline", "cross_entropy", some_digits(19, 8))
    kept = np.flatnonzero(DIGITS.train.labels < 3)  # no image of a class of the first task
    train = ArraySource(DIGITS.train.images(kept), DIGITS.train.labels[kept])
    few = dataclasses.replace(DIGITS, train=train)
    refused("the data is not the same", "il_baseline", "cross_entropy", few)
    made = make_config("il_baseline", fields={"train.init_from": str(tmp_path / "nothing")})
    with pytest.raises(UserError, match="no model in"):
        run(made, tmp_path / "run", DIGITS)
