"""The runs that faults are put into: seconds each; all methods, stages and kinds of loss."""

import contextlib
import functools
import io
import json
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from tiny_run import make_config, some_digits, without_timing

from bsce_jax.data import Dataset, load
from bsce_jax.files import MALFORMED
from bsce_jax.methods import METHODS
from bsce_jax.training import loop
from bsce_jax.training.problem import Problem
from bsce_jax.training.trainer import Trainer


class Case(NamedTuple):
    """A run by the names of its method and loss; `fields` by path."""

    method: str
    loss: str
    fields: dict[str, Any]
    folder: bool = False  # whether its images are files
    extends: bool = False  # whether it extends a run of the first seven classes


BASE = {"runtime.checkpoint_epochs": 1, "train.epochs": 8, "train.batch_size": 8}
BASE |= {"scenario.base": 4, "scenario.increment": 3}  # several checkpoints in a task
STREAMED = {"runtime.feed": "streamed", "train.augmentation": "source_crop+flip"}
FINE = {"method.finetune_epochs": 2, "train.finetuning": "always"}
NETWORK = {"memo": {"model.name": "small"}}  # it needs more than one stage
CASES = {
    **{
        f"{method} {loss}": Case(method, loss, BASE | NETWORK.get(method, {}))
        for method in sorted(METHODS)
        for loss in ("cross_entropy", "balanced_softmax")
    },
    "lucir fine-tuned": Case("lucir", "balanced_softmax", BASE | FINE),
    "podnet fine-tuned": Case("podnet", "nca", BASE | FINE),
    "eeil fine-tuned": Case("eeil", "cross_entropy", BASE | FINE),
    "learned weight": Case("il_baseline", "meta_balanced_softmax", BASE),
    "replayed batches": Case("replay", "cross_entropy", BASE | {"train.replay_batch_size": 8}),
    "total budget": Case("icarl", "balanced_softmax", BASE | {"memory.policy": "total"}),
    "all models": Case("il_baseline", "cross_entropy", BASE | {"runtime.keep_models": "all"}),
    "streamed crops": Case("il_baseline", "balanced_softmax", BASE | STREAMED, folder=True),
    "extended": Case("podnet", "balanced_softmax", BASE, extends=True),
    "image files": Case("il_baseline", "balanced_softmax", BASE, folder=True),
}


def config(case: Case) -> ConfigDict:
    """Make the config of a case."""
    fields = dict(case.fields)
    if case.fields.get("memory.policy") == "total":
        fields["memory.size"] = 60
    return make_config(case.method, case.loss, fields)


def data(case: Case, images: pathlib.Path) -> Dataset:
    """Make the data of a case; `images` is where its image files are, or will be."""
    if not case.folder:
        return _digits()
    if not images.exists():
        _write_images(images)
    return load("image_folder", images, 8)


@functools.cache
def _digits() -> Dataset:
    return some_digits(8, 2)


def _write_images(folder: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    for label in range(10):
        for split, count in (("train", 8), ("val", 2)):
            place = folder / split / f"class {label}"
            place.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")


def train(case: Case, folder: pathlib.Path) -> str:
    """Train a case in a folder, or go on; return what was printed."""
    printed = io.StringIO()
    made, found = config(case), data(case, folder.parent / "images")
    with contextlib.redirect_stderr(printed):
        if case.extends:
            first = folder.parent / "extended"
            if not (first / "exemplars").exists():
                seven = config(case)
                seven.scenario.class_order = "0,1,2,3,4,5,6"
                loop.run(seven, first, found)
            made.scenario.extends = str(first)
        loop.run(made, folder, found)
    return printed.getvalue()


@contextlib.contextmanager
def one_trainer() -> Iterator[None]:
    """Let the runs of one case share a trainer, of which each would compile the programs.

    A trainer has the images and the programs; what a run resumes from is in its folder.
    """
    made: list[Trainer] = []

    def shared(problem: Problem) -> Trainer:
        if not made:
            made.append(Trainer(problem))
        return made[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "Trainer", shared)
        yield


def differences(this: pathlib.Path, that: pathlib.Path) -> list[str]:
    """List the files of two finished runs that differ, apart from times and memory."""
    found = []
    if _bytes(this / "metrics.jsonl") != _bytes(that / "metrics.jsonl"):
        found.append("metrics.jsonl")
    results = [_object(place / "results.json") for place in (this, that)]
    if without_timing(results[0]) != without_timing(results[1]):
        found.append("results.json")
    names = {p.relative_to(f) for f in (this, that) for p in f.glob("*/task_*.npz")}
    found += [str(name) for name in sorted(names) if _arrays(this / name) != _arrays(that / name)]
    described = [_object(place / "model" / "model.json") for place in (this, that)]
    for description in described:  # zip archives hold the time of their making
        description.pop("sha256", None)
        description.pop("weights_sha256", None)
    if described[0] != described[1]:
        found.append("model.json")
    return found


def _bytes(path: pathlib.Path) -> bytes | None:
    """Read a file; None if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def _object(path: pathlib.Path) -> dict[str, Any]:
    """Read a JSON object; an empty one if it cannot be read."""
    try:
        value: dict[str, Any] = json.loads(_bytes(path) or b"{}")
    except ValueError:  # of JSON and of UTF-8
        return {}
    return value


def _arrays(path: pathlib.Path) -> dict[str, bytes] | None:
    """Read the arrays of an archive; None if they cannot be read."""
    try:
        with np.load(path) as archive:
            return {name: archive[name].tobytes() for name in archive.files}
    except MALFORMED:
        return None
