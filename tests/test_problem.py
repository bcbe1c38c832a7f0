"""What is checked before any image is read."""

import dataclasses
import json
import pathlib
import subprocess

import numpy as np
import pytest
from tiny_run import flat_images, make_config, some_digits

from bsce_jax.data import ArraySource, Dataset
from bsce_jax.data.source import Source
from bsce_jax.errors import UserError
from bsce_jax.methods import METHODS, Method, Stage
from bsce_jax.runs.results import git_commit
from bsce_jax.training.loop import run
from bsce_jax.training.problem import Problem

DIGITS = some_digits(4, 2)


class Unreadable:
    """The labels of a source, without its images."""

    def __init__(self, source: Source):
        self.labels = source.labels
        self.image_shape = source.image_shape
        self.identity = source.identity

    def images(self, indices: object) -> np.ndarray:
        raise AssertionError("an image was read")


def without(dataset: Dataset, split: str, *classes: int) -> Dataset:
    """A data set without the images of some classes in a split."""
    source: Source = getattr(dataset, split)
    kept = np.flatnonzero(~np.isin(source.labels, classes))
    parts = {"train": dataset.train, "test": dataset.test}
    parts[split] = ArraySource(source.images(kept), source.labels[kept])
    names = tuple(f"digit {name}" for name in dataset.class_names)
    return Dataset("digits", parts["train"], parts["test"], names, dataset.mean, dataset.std)


@pytest.mark.parametrize("method", ["pass", "fetril", "lucir", "replay"])
def test_classes_without_training_images_are_named(method: str) -> None:
    dataset = without(DIGITS, "train", 3, 8)
    with pytest.raises(UserError, match="no training images of class digit 3, digit 8: add some"):
        Problem(make_config(method), dataset)
    left_out = {"scenario.class_order": "0,1,2,4,5,6", "scenario.base": 3, "scenario.increment": 3}
    assert Problem(make_config(method, None, left_out), dataset).scenario.num_classes == 6


def test_the_first_task_needs_test_images() -> None:
    dataset = without(DIGITS, "test", 0, 1, 2, 3, 4)
    with pytest.raises(UserError, match=r"no test images of the classes of task 1"):
        Problem(make_config("replay"), dataset)
    assert len(Problem(make_config("replay"), without(DIGITS, "test", 0)).test_records(10)) == 18


def test_a_method_that_trains_on_the_memory_alone_needs_one(tmp_path: pathlib.Path) -> None:
    @METHODS.register("greedy")
    class Greedy(Method):
        def stages(self, main: Stage, task: int) -> tuple[Stage, ...]:
            return (dataclasses.replace(main, records="memory"),)

    with pytest.raises(UserError, match=r"greedy has no training in task 1 with memory\.size 0"):
        Problem(make_config("greedy", None, {"memory.size": 0}), DIGITS)
    fields = {"memory.size": 2, "train.epochs": 2, "train.batch_size": 5}
    run(make_config("greedy", None, fields), tmp_path, DIGITS)
    log = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [entry["step"] for entry in log if entry["kind"] == "epoch"]
    assert steps == [2, 4, 8, 12]  # of 5 exemplars: 10 in the first task, 20 in the second


@pytest.mark.parametrize("method", ["podnet", "afc"])
def test_a_network_without_maps_is_refused_where_maps_are_distilled(method: str) -> None:
    with pytest.raises(UserError, match=r"needs feature maps: TinyLinear of model\.name has none"):
        Problem(make_config(method, None, {"model.name": "tiny_linear"}), DIGITS)


def test_images_that_are_turned_must_be_square() -> None:
    dataset = flat_images([4] * 10, size=(2, 3))
    with pytest.raises(UserError, match="method pass turns the images: 2x3 ones are not square"):
        Problem(make_config("pass"), dataset)


def test_no_image_is_read() -> None:
    lazy = Dataset(
        "digits",
        Unreadable(DIGITS.train),
        Unreadable(DIGITS.test),
        DIGITS.class_names,
        DIGITS.mean,
        DIGITS.std,
    )
    assert len(Problem(make_config("replay"), lazy).train_records()) == 40
    with pytest.raises(UserError, match=r"unknown model.name 'tinny'"):
        Problem(make_config("replay", None, {"model.name": "tinny"}), lazy)


def test_the_commit_is_that_of_the_code_and_of_no_other_repository(tmp_path: pathlib.Path) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    (tmp_path / "tracked.py").write_text("")
    subprocess.run([*git, "add", "tracked.py"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", "m"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    assert git_commit(tmp_path / "tracked.py") == head.strip()
    installed = tmp_path / ".venv" / "results.py"  # in a checkout, and not of it
    installed.parent.mkdir()
    installed.write_text("")
    assert git_commit(installed) is None
