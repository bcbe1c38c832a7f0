"""Extending a finished run: its classes first, its exemplars instead of its images."""

import json
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from tiny_run import (
    assert_same_run,
    interrupted,
    make_config,
    run_with_interruption,
    some_digits,
    weights,
    without_timing,
)

from bsce_jax.data import ArraySource, Dataset
from bsce_jax.errors import UserError
from bsce_jax.methods import METHODS
from bsce_jax.runs import exemplars
from bsce_jax.runs.extension import Extension
from bsce_jax.runs.saved import SavedRun
from bsce_jax.training.loop import run
from bsce_jax.training.problem import Problem
from bsce_jax.training.trainer import Trainer

DIGITS = some_digits()
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def part(names: str, *, tested: str = "") -> Dataset:
    """The digits of some classes, with labels of their own; and of some only the test images."""
    chosen = names.split()
    known = [*chosen, *tested.split()]

    def source(whole: Any, having: list[str]) -> ArraySource:
        parts = [np.flatnonzero(whole.labels == NAMES.index(name)) for name in having]
        labels = np.repeat([known.index(name) for name in having], [len(p) for p in parts])
        return ArraySource(whole.images(np.concatenate(parts)), labels)

    return Dataset(
        name="some digits",
        train=source(DIGITS.train, chosen),
        test=source(DIGITS.test, known),
        class_names=tuple(known),
        mean=DIGITS.mean,
        std=DIGITS.std,
    )


def config(method: str = "il_baseline", loss: str | None = None, **fields: Any) -> ConfigDict:
    named = {path.replace("__", "."): value for path, value in fields.items()}
    return make_config(method, loss, {"scenario.base": 2, "scenario.increment": 2, **named})


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A finished run of two tasks."""
    folder = tmp_path_factory.mktemp("first") / "run"
    run(config(), folder, part("one five three eight"))
    return folder


def test_a_run_without_training_goes_on_without_training(
    first: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    init = str(next((first / "model").glob("task_*.npz")))
    fields: dict[str, Any] = {"train__epochs": 0, "method__width": 16}
    base = config("acil", model__init=init, **fields)
    run(base, tmp_path / "base", part("one five three eight"))
    extended = config("acil", scenario__extends=str(tmp_path / "base"), **fields)
    run(extended, tmp_path / "more", part("two nine", tested="one five three eight"))
    before, after = weights(tmp_path / "base", 1), weights(tmp_path / "more", 2)
    for name in before:
        if "/backbone/" in name:
            np.testing.assert_array_equal(after[name], before[name])


def test_the_exemplars_are_the_images_of_the_memory(first: pathlib.Path) -> None:
    source, counts = exemplars.read(first)
    kept = SavedRun.open(first).results["memory"]["indices"][-1]
    assert counts == [len(records) for records in kept] == [6] * 4
    images = part("one five three eight").train.images(np.concatenate(kept))
    np.testing.assert_array_equal(source.images(np.arange(24)), images)
    np.testing.assert_array_equal(source.labels, np.repeat(np.arange(4), 6))


def test_a_run_goes_on_with_new_classes_twice(first: pathlib.Path, tmp_path: pathlib.Path) -> None:
    second, third = tmp_path / "second", tmp_path / "third"
    # the old training photos are gone, the classes come in another order
    found = part("two nine five one three eight")
    results = run(config(scenario__extends=str(first)), second, found)
    assert results["tasks"] == [[0, 1], [2, 3], [4, 5]]
    assert results["class_names"] == ["one", "five", "three", "eight", "two", "nine"]
    before = SavedRun.open(first).results
    for kind in ("cnn", "nme"):
        for figure in ("accuracy", "matrix"):
            assert len(results[kind][figure]) == 3
        assert results[kind]["accuracy"][:2] == before[kind]["accuracy"]
        assert [row[:2] for row in results[kind]["matrix"][:2]] == before[kind]["matrix"]
        assert all(np.isfinite(results[kind]["matrix"][2]))
        assert results[kind]["forgetting"] is not None
    log = (second / "metrics.jsonl").read_text()
    assert log.startswith((first / "metrics.jsonl").read_text())
    steps = [json.loads(line)["step"] for line in log.splitlines()]
    assert steps == sorted(steps)
    assert results["timing"]["steps"] == steps[-1]

    more = part("zero seven six", tested="one nine")
    more_tasks = config(scenario__extends=str(second), scenario__tasks="seven|zero,six")
    results = run(more_tasks, third, more)
    assert results["tasks"] == [[0, 1], [2, 3], [4, 5], [7], [6, 8]]
    saved = SavedRun.open(third)
    assert saved.class_names[-3:] == ("seven", "zero", "six")
    # of old classes, only the images that are there are measured: five is not
    last = results["cnn"]["matrix"][4]
    assert [value is None for value in last] == [False, True, False, False, False]
    assert results["memory"]["indices"][-1][0] == [0, 1, 2, 3, 4, 5]


def test_the_model_is_a_block_of_the_larger_one(first: pathlib.Path) -> None:
    problem = Problem(
        config(scenario__extends=str(first)), part("one five three eight two nine seven")
    )
    assert problem.extension is not None
    initial = Trainer(problem).probe(problem.network).initial
    grown = problem.extension.model(initial)
    old = weights(first, 1)
    np.testing.assert_array_equal(grown.params["head"]["weight"][:4], old["params/head/weight"])
    np.testing.assert_array_equal(
        grown.params["head"]["weight"][4:], initial.params["head"]["weight"][4:]
    )
    assert grown.params["head"]["weight"].shape[0] == 7
    same = jax.tree.map(np.array_equal, initial.batch_stats, grown.batch_stats)
    assert not any(jax.tree.leaves(same))  # they are the trained ones


@pytest.mark.parametrize("kind", ["killed", "stopped"])
def test_an_extended_run_resumes(first: pathlib.Path, tmp_path: pathlib.Path, kind: str) -> None:
    made = config(scenario__extends=str(first), runtime__checkpoint_epochs=1)
    found = part("two nine one five three eight")
    straight = run(made, tmp_path / "straight", found)
    place = {"task": 2, "epoch": 1 if kind == "killed" else 2}
    results = run_with_interruption(made, found, tmp_path / "resumed", kind, **place)
    assert without_timing(results) == without_timing(straight)
    assert_same_run(tmp_path / "straight", tmp_path / "resumed", 2)


@pytest.mark.parametrize("method", list(METHODS))
def test_old_arrays_are_the_first_block_of_new_ones(method: str) -> None:
    def arrays(base: int) -> dict[str, jax.ShapeDtypeStruct]:
        fields: dict[str, Any] = {
            "model__name": "small",
            "scenario__base": base,
            "scenario__class_order": ",".join("01234567"[: base + 2]),
        }
        problem = Problem(config(method, **fields), DIGITS)

        def make() -> tuple[Any, Any]:
            variables = problem.network_of(0).init(
                jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False
            )
            return variables, problem.method.init_extra(variables["params"], base + 2)

        named, _ = jax.tree.flatten_with_path(jax.eval_shape(make))
        return {jax.tree_util.keystr(path): array for path, array in named}

    small, large = arrays(3), arrays(6)
    assert small.keys() == large.keys()
    grown = [name for name in small if small[name].shape != large[name].shape]
    assert grown
    for name in grown:  # the class is the leading axis and no other
        rows = 3 if method == "pass" and "auxiliary" in name else 1  # three turns of a class
        assert large[name].shape[0] - small[name].shape[0] == 3 * rows, name
        assert small[name].shape[1:] == large[name].shape[1:], name


@pytest.mark.parametrize(
    "method", ["bic", *(pytest.param(m, marks=pytest.mark.slow) for m in ("lucir", "il2m", "ewc"))]
)
def test_methods_with_a_state_are_extended(method: str, tmp_path: pathlib.Path) -> None:
    made: dict[str, Any] = {"train__epochs": 1, "scenario__base": 3, "scenario__increment": 1}
    run(config(method, **made), tmp_path / "first", part("one five three eight"))
    made["scenario__extends"] = str(tmp_path / "first")
    results = run(config(method, **made), tmp_path / "second", part("two seven one five"))
    assert results["tasks"] == [[0, 1, 2], [3], [4, 5]]
    old, new = (weights(tmp_path / name, task) for name, task in (("first", 1), ("second", 2)))
    assert old.keys() == new.keys()


def test_what_cannot_be_extended(first: pathlib.Path, tmp_path: pathlib.Path) -> None:
    found = part("one five three eight two")

    def refused(
        message: str, found: Dataset = found, method: str = "il_baseline", **more: Any
    ) -> None:
        made = config(method, **{"scenario__extends": str(first), **more})
        with pytest.raises(UserError, match=message):
            run(made, tmp_path / "second", found)
        assert not (tmp_path / "second").exists()

    refused("no class that .* has not learned already", part("five one"))
    refused("no model in", scenario__extends=str(tmp_path))
    refused("lists class one, which was learned already", scenario__tasks="one,two")
    refused("unknown class in scenario.tasks 'tow'; did you mean two", scenario__tasks="tow")
    refused("trains on all old images", method="joint")
    small = DIGITS.resized(4)
    refused(r"images of the shape \[4, 4, 1\], and .* was trained on \[8, 8, 1\]", small)


def test_another_network_is_refused(first: pathlib.Path, tmp_path: pathlib.Path) -> None:
    def refused(message: str, method: str = "il_baseline", **fields: Any) -> None:
        made = config(method, scenario__extends=str(first), **fields)
        with pytest.raises(UserError, match=f"cannot go on with this config: {message}"):
            run(made, tmp_path / "second", part("one five three eight two"))

    refused("model.name is tiny there and small here", model__name="small")
    refused("the head is linear there and cosine here", "lucir")
    refused("model.flip is False there and True here", model__flip=True)
    assert not (tmp_path / "second").exists()


def test_a_head_of_the_same_shape_with_other_scores_is_refused(tmp_path: pathlib.Path) -> None:
    fields: dict[str, Any] = {"train__epochs": 1, "method__finetune_epochs": 1}
    run(config("podnet", **fields), tmp_path / "first", part("one five three eight"))
    fields |= {"scenario__extends": str(tmp_path / "first"), "method__similarity": "cosine"}
    with pytest.raises(UserError, match="the head is lsc_distance there and lsc here"):
        run(config("podnet", **fields), tmp_path / "second", part("one five three eight two"))


def test_exemplars_in_every_batch_need_exemplars(tmp_path: pathlib.Path) -> None:
    run(config("finetune", memory__size=0), tmp_path / "first", part("one five three eight"))
    fields: dict[str, Any] = {"scenario__extends": str(tmp_path / "first")}
    fields["train__replay_batch_size"] = 16
    found = part("two nine", tested="one five three eight")
    with pytest.raises(UserError, match=r"no exemplars for train\.replay_batch_size 16"):
        run(config("il_baseline", **fields), tmp_path / "second", found)
    assert not (tmp_path / "second").exists()
    fields["train__replay_batch_size"] = 0
    run(config("il_baseline", **fields), tmp_path / "second", found)


def test_an_unfinished_run_is_refused(tmp_path: pathlib.Path) -> None:
    with interrupted("stopped", task=1, epoch=1):
        run(config(), tmp_path / "first", part("one five three eight"))
    with pytest.raises(UserError, match="has finished 1 of 2 tasks: finish it first"):
        Extension(tmp_path / "first")


@pytest.mark.parametrize("file", ["images.npy", "exemplars.json"])
def test_damaged_exemplars_are_written_anew(
    first: pathlib.Path, tmp_path: pathlib.Path, file: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(first, folder)
    path = folder / "exemplars" / file
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match="is damaged: the run's command writes it anew"):
        Extension(folder)
    run(config(), folder, part("one five three eight"))
    assert path.read_bytes() == whole
