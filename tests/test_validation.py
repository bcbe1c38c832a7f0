"""`dataset.validation`: training images are evaluated instead of the test images."""

import contextlib
import dataclasses
import json
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
import tiny_tfds
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_run import (
    assert_same_run,
    flat_images,
    make_config,
    run_with_interruption,
    some_digits,
    without_timing,
)

from bsce_jax import data
from bsce_jax.data import ArraySource, Dataset
from bsce_jax.data.source import FittedSource
from bsce_jax.data.validation import hold_out
from bsce_jax.errors import UserError
from bsce_jax.report.terminal import print_results
from bsce_jax.runs import known, predictions
from bsce_jax.training.loop import run
from bsce_jax.training.problem import Problem

FIELDS = {"dataset.validation": 0.3}


class Unread(ArraySource):
    """Images that nobody may look at."""

    def images(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        raise AssertionError("a test image was read")


def digits() -> Dataset:
    """The first digits of each class, with test images that must not be read."""
    whole = some_digits()
    unread = Unread(data.all_images(whole.test), whole.test.labels)
    return dataclasses.replace(whole, test=unread)


# --- the split


@given(
    st.lists(st.integers(0, 30), min_size=2, max_size=5).filter(lambda counts: max(counts) > 1),
    st.floats(0.001, 0.999),
    st.integers(0, 2**32 - 1),
)
def test_a_fraction_of_each_class_is_held_out(
    counts: list[int], fraction: float, seed: int
) -> None:
    whole = flat_images(counts, (1, 1))
    split = hold_out(whole, fraction, seed)
    expected = [0 if n < 2 else min(n - 1, max(1, round(fraction * n))) for n in counts]
    assert np.bincount(split.test.labels, minlength=len(counts)).tolist() == expected
    together = [
        (int(label), int(image))
        for source in (split.train, split.test)
        for label, image in zip(source.labels, data.all_images(source).ravel(), strict=True)
    ]
    there = zip(whole.train.labels, data.all_images(whole.train).ravel(), strict=True)
    assert sorted(together) == sorted((int(label), int(image)) for label, image in there)
    again = hold_out(whole, fraction, seed)
    assert (again.train.identity, again.test.identity) == (
        split.train.identity,
        split.test.identity,
    )


def test_the_seed_chooses() -> None:
    identities = {hold_out(some_digits(), 0.1, seed).identity for seed in range(5)}
    assert len(identities) == 5


def test_without_two_images_of_a_class_it_is_refused() -> None:
    with pytest.raises(UserError, match=r"dataset\.validation is 0\.1: no class of noise has two"):
        hold_out(flat_images([1, 1]), 0.1, 0)


@pytest.mark.parametrize("kind", ["folder", "tfds"])
def test_images_are_fitted_as_test_images(tmp_path: pathlib.Path, kind: str) -> None:
    """A white frame is in the whole square, and not in the central crop."""
    pixels = np.full((64, 64, 3), 255, np.uint8)
    pixels[3:-3, 3:-3] = 0
    if kind == "folder":
        for file in ("train/a/1", "train/a/2", "val/a/3"):
            path = tmp_path / f"{file}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
        whole = data.load("image_folder", tmp_path, 28)
    else:
        features = {
            "image": tfds.features.Image(encoding_format="png"),
            "label": tfds.features.ClassLabel(names=["a"]),
        }
        records = [{"image": tiny_tfds.png(pixels), "label": 0} for _ in range(3)]
        splits = {"train": records[:2], "validation": records[2:]}
        tiny_tfds.write(tmp_path / "photos/1.0.0", features, splits)
        whole = data.load("tfds:photos", tmp_path, 28)
    split = hold_out(whole, 0.5, 0)
    assert isinstance(split.test, FittedSource)
    assert split.test.fit == "central_crop"
    assert data.all_images(split.train).max() == 255
    assert data.all_images(split.test).max() == 0
    np.testing.assert_array_equal(split.test.images([0]), whole.test.images([0]))
    assert split.test.identity != split.train.identity


# --- a run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("validation") / "run"
    with open(folder.with_name("screen"), "w") as screen, contextlib.redirect_stderr(screen):
        run(make_config("il_baseline", None, FIELDS), folder, digits())
    return folder


def test_a_run_says_what_it_was_evaluated_on(
    finished: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = json.loads((finished / "results.json").read_text())
    assert results["evaluated_on"] == "validation"
    log = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert {entry["evaluated_on"] for entry in log if entry["kind"] == "task"} == {"validation"}
    labels, _, _ = predictions.read(finished, 1)
    assert np.bincount(labels).tolist() == [6] * 10  # 0.3 of 20
    print_results(results)
    assert "validation images: accuracy in %" in capsys.readouterr().out
    screen = finished.with_name("screen").read_text()
    assert "140 to train (14 a class), 60 to validate on\n" in screen
    assert screen.count("% on validation images\n") == 2


def test_a_streamed_run_that_is_interrupted_is_the_same(
    finished: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    config = make_config("il_baseline", None, {**FIELDS, "runtime.feed": "streamed"})
    again = run_with_interruption(config, digits(), tmp_path / "run", "killed", task=1, epoch=2)
    assert_same_run(tmp_path / "run", finished, 1)
    straight = json.loads((finished / "results.json").read_text())
    assert without_timing(again) == without_timing(straight)


def test_it_is_part_of_the_identity(finished: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"dataset\.validation is 0\.3 there and 0\.0 here"):
        run(make_config("il_baseline"), finished, some_digits())


def test_it_is_not_mixed_with_test_images(finished: pathlib.Path, tmp_path: pathlib.Path) -> None:
    fields: dict[str, Any] = {"scenario.extends": str(finished)}
    with pytest.raises(UserError, match="was evaluated on validation images"):
        Problem(make_config("il_baseline", None, fields), digits())
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    results = json.loads((copy / "results.json").read_text())
    (copy / "results.json").write_text(json.dumps({**results, "evaluated_on": "test"}))
    fields["scenario.extends"] = str(copy)
    with pytest.raises(UserError, match="a run that extends another is evaluated on test images"):
        Problem(make_config("il_baseline", None, fields | FIELDS), digits())


def test_photos_that_are_added_change_nothing(tmp_path: pathlib.Path) -> None:
    """The split is that of the photos that the run knows."""

    def add(name: str, red: int) -> None:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (red, 0, 0)).save(path)

    def load() -> Dataset:
        return data.load("image_folder", tmp_path / "photos", 8)

    for i in range(12):
        add(f"train/{'ab'[i % 2]}/{i:02}.png", 20 * i)
        add(f"val/{'ab'[i % 2]}/{i:02}.png", 20 * i)
    whole = load()
    known.write(tmp_path, whole)
    add("train/a/00 new.png", 255)
    again = known.without_added(tmp_path, load())
    assert hold_out(again, 0.5, 0).identity == hold_out(whole, 0.5, 0).identity
    assert hold_out(load(), 0.5, 0).identity != hold_out(whole, 0.5, 0).identity
