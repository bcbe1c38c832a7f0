"""A folder that was damaged, or is another run's, is noticed; nothing goes on in silence."""

import errno
import fcntl
import json
import os
import pathlib
import resource
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from tiny_run import (
    assert_same_run,
    flat_images,
    interrupted,
    make_config,
    some_digits,
    without_timing,
)

from bsce_jax.data import ArraySource, Dataset
from bsce_jax.errors import UserError
from bsce_jax.runs.log import Log
from bsce_jax.runs.saved import SavedRun
from bsce_jax.training.loop import run
from bsce_jax.training.seeds import run_seeds

CONFIG = make_config("il_baseline", fields={"runtime.checkpoint_epochs": 1, "train.epochs": 4})


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return some_digits()


@pytest.fixture(scope="module")
def straight(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("straight") / "run"
    run(CONFIG, folder, digits)
    return folder


@pytest.fixture(scope="module")
def stopped(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run that stopped in its second task, with two checkpoints of it."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    with interrupted("stopped", task=1, epoch=3):
        run(CONFIG, folder, digits)
    return folder


@pytest.fixture
def copy(stopped: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    return shutil.copytree(stopped, tmp_path / "run")


def newest(folder: pathlib.Path) -> pathlib.Path:
    numbers = [p for p in (folder / "checkpoints").iterdir() if p.name.isdecimal()]
    return max(numbers, key=lambda p: int(p.name))


def largest(folder: pathlib.Path) -> pathlib.Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def progress_file(folder: pathlib.Path) -> pathlib.Path:
    return next(p for p in folder.rglob("*") if p.is_file() and b"exemplars" in p.read_bytes())


def flip(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(folder: pathlib.Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.unlink()


DAMAGE: dict[str, Callable[[pathlib.Path], object]] = {
    "one bit of the arrays": lambda c: flip(largest(c)),
    "one bit of the progress": lambda c: flip(progress_file(c)),
    "a file too many": lambda c: (c / "more").write_bytes(b"x"),
    "all of it": empty,
    "the seal": lambda c: flip(c.with_name(f"{c.name}.sealed")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_replaced_by_the_one_before(
    damage: str,
    copy: pathlib.Path,
    straight: pathlib.Path,
    digits: Dataset,
    capsys: pytest.CaptureFixture[str],
) -> None:
    number = newest(copy).name
    DAMAGE[damage](newest(copy))
    run(CONFIG, copy, digits)
    assert f"checkpoint {number} is damaged" in capsys.readouterr().err
    assert_same_run(copy, straight, 1)


def test_a_checkpoint_whose_saving_was_cut_short_is_not_read(
    copy: pathlib.Path,
    straight: pathlib.Path,
    digits: Dataset,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flip(largest(newest(copy)))
    newest(copy).with_name(f"{newest(copy).name}.sealed").unlink()
    run(CONFIG, copy, digits)
    assert "damaged" not in capsys.readouterr().err
    assert_same_run(copy, straight, 1)


def test_without_a_whole_checkpoint_the_run_is_refused(copy: pathlib.Path, digits: Dataset) -> None:
    for path in (copy / "checkpoints").iterdir():
        if path.is_dir():
            flip(largest(path))
    before = sorted(p.name for p in (copy / "checkpoints").iterdir())
    with pytest.raises(UserError, match=r"no checkpoint in .* is whole"):
        run(CONFIG, copy, digits)
    assert sorted(p.name for p in (copy / "checkpoints").iterdir()) == before


def test_a_run_killed_before_its_first_checkpoint_starts_again(
    straight: pathlib.Path, digits: Dataset, tmp_path: pathlib.Path
) -> None:
    with interrupted("killed", task=0, epoch=1):
        run(CONFIG, tmp_path / "run", digits)
    for seal in (tmp_path / "run" / "checkpoints").glob("*.sealed"):
        seal.unlink()
    run(CONFIG, tmp_path / "run", digits)
    assert_same_run(tmp_path / "run", straight, 1)


# --- another run


def changed(**fields: object) -> ConfigDict:
    config = CONFIG.copy_and_resolve_references()
    with config.unlocked():
        config.update_from_flattened_dict({k.replace("__", "."): v for k, v in fields.items()})
    return config


def test_the_checkpoints_know_the_config_too(copy: pathlib.Path, digits: Dataset) -> None:
    (copy / "config.json").unlink()
    with pytest.raises(UserError, match="seed is 0 there and 1 here"):
        run(changed(seed=1), copy, digits)


def test_an_edited_config_json_does_not_hide_another_config(
    copy: pathlib.Path, digits: Dataset
) -> None:
    path = copy / "config.json"
    path.write_text(path.read_text().replace('"learning_rate": 0.05', '"learning_rate": 0.06'))
    assert "0.06" in path.read_text()
    with pytest.raises(UserError, match=r"learning_rate is 0.06 there and 0.05 here"):
        run(CONFIG, copy, digits)
    with pytest.raises(UserError, match=r"learning_rate is 0.05 there and 0.06 here"):
        run(changed(train__learning_rate=0.06), copy, digits)


def test_fields_that_alter_no_result_may_change(
    copy: pathlib.Path, straight: pathlib.Path, digits: Dataset
) -> None:
    other = changed(dataset__data_dir="elsewhere", runtime__checkpoint_epochs=3)
    run(other, copy, digits)
    assert_same_run(copy, straight, 1)
    assert json.loads((copy / "config.json").read_text())["dataset"]["data_dir"] == "elsewhere"


def test_a_field_that_a_newer_version_added_had_its_default(
    copy: pathlib.Path, straight: pathlib.Path, digits: Dataset
) -> None:
    sections = json.loads((copy / "config.json").read_text())
    del sections["train"]["optimizer"]
    (copy / "config.json").write_text(json.dumps(sections))
    run(CONFIG, copy, digits)
    assert_same_run(copy, straight, 1)


def with_images(dataset: Dataset, **splits: ArraySource) -> Dataset:
    parts = {"train": dataset.train, "test": dataset.test, **splits}
    return Dataset(
        "some digits", class_names=dataset.class_names, mean=dataset.mean, std=dataset.std, **parts
    )


def other_data() -> dict[str, tuple[Dataset, str]]:
    dataset = some_digits()
    images = dataset.train.images(np.arange(200))
    labels = dataset.train.labels
    darker, swapped = images.copy(), labels.copy()
    darker[7] //= 2
    swapped[[0, 199]] = swapped[[199, 0]]
    return {
        "a pixel": (with_images(dataset, train=ArraySource(darker, labels)), "training images"),
        "a label": (with_images(dataset, train=ArraySource(images, swapped)), "training labels"),
        "more images": (some_digits(train=21), r"number of training images .*200 then, 210 now"),
        "other test images": (some_digits(test=9), "number of test images"),
        "another data set": (flat_images([8] * 10, (8, 8)), "name"),
    }


@pytest.mark.parametrize("change", other_data())
def test_data_that_changed_is_refused(change: str, copy: pathlib.Path) -> None:
    dataset, named = other_data()[change]
    other = ConfigDict(CONFIG)
    other.dataset.data_dir = "elsewhere"
    before = [(copy / name).read_bytes() for name in ("metrics.jsonl", "config.json")]
    with pytest.raises(UserError, match=f"the data is not what .* was trained on: the {named}"):
        run(other, copy, dataset)
    assert [(copy / name).read_bytes() for name in ("metrics.jsonl", "config.json")] == before


# --- places


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("run[1]", r"has a \[ in it"),
        ("run*", r"has a \* in it"),
        ("s3://bucket/run", "is remote"),
        ("s3:/bucket/run", "is remote"),  # as pathlib writes it
        ("", "is empty"),
        ("caf\udce9", "is not UTF-8"),
    ],
)
def test_a_place_where_something_would_be_lost_is_refused(
    name: str,
    message: str,
    digits: Dataset,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        run(CONFIG, name, digits)
    with pytest.raises(UserError, match=message):
        run_seeds(CONFIG, name, [0, 1])
    assert not any(tmp_path.iterdir())


def test_results_of_a_finished_run_come_again(straight: pathlib.Path, digits: Dataset) -> None:
    written = json.loads((straight / "results.json").read_text())
    assert without_timing(run(CONFIG, straight, digits)) == without_timing(written)


def test_a_damaged_model_and_another_kind_of_prediction_are_refused(
    copy: pathlib.Path, digits: Dataset
) -> None:
    saved = SavedRun.open(copy)
    with pytest.raises(UserError, match="unknown by 'knn'"):
        saved.predict(digits.test.images([0]), by="knn")  # type: ignore[arg-type]  # the mistake
    weights = next((copy / "model").glob("*.npz"))
    with np.load(weights) as archive:
        arrays = {**archive}
    np.savez(weights, **{**arrays, "params/head/bias": 1 + arrays["params/head/bias"]})
    with pytest.raises(UserError, match=r"task_00.npz is not the file that .*model.json describes"):
        SavedRun.open(copy)
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"task_00.npz is damaged"):
        SavedRun.open(copy)


# --- what stands beside the checkpoints


@pytest.fixture
def finished(straight: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    return shutil.copytree(straight, tmp_path / "run")


def test_an_altered_log_is_said(
    finished: pathlib.Path, digits: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(finished / "metrics.jsonl")
    run(CONFIG, finished, digits)
    assert "metrics.jsonl is not as it was written" in capsys.readouterr().err


def test_altered_results_are_written_again(
    finished: pathlib.Path, digits: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    path = finished / "results.json"
    before = json.loads(path.read_text())
    altered = {**before, "cnn": {**before["cnn"], "last": before["cnn"]["last"] + 1}}
    path.write_text(json.dumps(altered))
    found = run(CONFIG, finished, digits)
    assert "results.json is missing or not as it was written" in capsys.readouterr().err
    assert without_timing(found) == without_timing(before)
    assert json.loads(path.read_text()) == found


def test_lost_predictions_are_said(
    finished: pathlib.Path, digits: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    (finished / "predictions" / "task_00.npz").unlink()
    assert run(CONFIG, finished, digits) == json.loads((finished / "results.json").read_text())
    assert "task_00.npz is missing" in capsys.readouterr().err


def test_an_altered_description_of_the_model_is_refused_and_written_again(
    finished: pathlib.Path, digits: Dataset
) -> None:
    path = finished / "model" / "model.json"
    before = path.read_text()
    path.write_text(before.replace('"task": 1', '"task": 0'))
    assert path.read_text() != before
    with pytest.raises(UserError, match=r"model\.json is not as it was written"):
        SavedRun.open(finished)
    run(CONFIG, finished, digits)
    assert json.loads(path.read_text())["task"] == 1


def test_a_lock_that_is_removed_while_training_stops_the_run(
    digits: Dataset, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Log.write

    def remove(log: Log, kind: str, *args: Any) -> None:
        write(log, kind, *args)
        if kind == "task":
            (tmp_path / "run" / ".lock").unlink(missing_ok=True)

    monkeypatch.setattr(Log, "write", remove)
    with pytest.raises(UserError, match=r"\.lock was removed while this process was training"):
        run(CONFIG, tmp_path / "run", digits)


def test_a_file_system_without_locks_is_said(
    digits: Dataset,
    finished: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    run(CONFIG, finished, digits)
    assert "cannot be locked (No locks available): start no other run" in capsys.readouterr().err


def test_a_link_to_nowhere_is_refused(digits: Dataset, tmp_path: pathlib.Path) -> None:
    (tmp_path / "run").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=r"run is a link to .*gone, which is missing"):
        run(CONFIG, tmp_path / "run", digits)


def test_too_few_descriptors_are_refused_at_the_start(
    digits: Dataset, tmp_path: pathlib.Path
) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, before[1]))
    try:
        with pytest.raises(UserError, match=r"may open 100 files at a time: allow 256"):
            run(CONFIG, tmp_path / "run", digits)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


# --- images in folders that change


def folder_of_images(place: pathlib.Path, count: int = 6) -> pathlib.Path:
    rng = np.random.default_rng(0)
    for name in ("ant", "bee", "cat", "dog"):
        for split in ("train", "val"):
            (place / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(place / split / name / f"{number}.png")
    return place


PHOTOS = {
    "scenario.base": 2,
    "scenario.increment": 2,
    "runtime.checkpoint_epochs": 1,
    "memory.size": 3,
}


@pytest.fixture
def photos(tmp_path: pathlib.Path) -> tuple[pathlib.Path, ConfigDict]:
    folder = folder_of_images(tmp_path / "photos")
    more = {"dataset.name": "image_folder", "dataset.data_dir": str(folder)}
    return folder, make_config("replay", fields={**PHOTOS, **more, "dataset.image_size": 8})


def test_photos_that_were_added_are_left_out(
    photos: tuple[pathlib.Path, ConfigDict],
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, config = photos
    wanted = run(config, tmp_path / "straight")
    with interrupted("stopped", task=1, epoch=1):
        run(config, tmp_path / "run")
    for name in ("ant", "dog"):  # before and after the others of its class
        for new in ("00.png", "9.png"):
            shutil.copy(folder / "train" / name / "0.png", folder / "train" / name / new)
    shutil.copy(folder / "val" / "bee" / "0.png", folder / "val" / "bee" / "new.png")
    found = run(config, tmp_path / "run")
    said = capsys.readouterr().err
    assert "5 images were added since the run began: it goes on without them" in said
    assert without_timing(found) == without_timing(wanted)
    assert_same_run(tmp_path / "run", tmp_path / "straight", 1)


def test_photos_that_are_gone_or_changed_are_named(
    photos: tuple[pathlib.Path, ConfigDict], tmp_path: pathlib.Path
) -> None:
    folder, config = photos
    run(config, tmp_path / "run")
    file = folder / "train" / "bee" / "2.png"
    content = file.read_bytes()
    file.write_bytes(content + b"x")
    changed = r"the training images changed, bee/2\.png is missing or has another size"
    with pytest.raises(UserError, match=changed):
        run(config, tmp_path / "run")
    file.unlink()
    (folder / "train" / "bee" / "3.png").unlink()
    with pytest.raises(UserError, match=r"24 then, 22 now\), bee/2.png is .*, as have 1 more"):
        run(config, tmp_path / "run")


def test_a_class_that_was_added_is_another_data_set(
    photos: tuple[pathlib.Path, ConfigDict], tmp_path: pathlib.Path
) -> None:
    folder, config = photos
    run(config, tmp_path / "run")
    for split in ("train", "val"):
        shutil.copytree(folder / split / "ant", folder / split / "eel")
    with pytest.raises(UserError, match="the class names changed"):
        run(config, tmp_path / "run")
