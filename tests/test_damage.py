"""A folder that was damaged, or is another run's, is noticed; nothing goes on in silence."""

import json
import pathlib
import shutil
from collections.abc import Callable

import numpy as np
import pytest
from ml_collections import ConfigDict
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
from bsce_jax.runs.saved import SavedRun
from bsce_jax.training.loop import run

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
    "cut short": lambda c: largest(c).write_bytes(largest(c).read_bytes()[:-1]),
    "emptied": lambda c: largest(c).write_bytes(b""),
    "deleted": lambda c: largest(c).unlink(),
    "a file too many": lambda c: (c / "more").write_bytes(b"x"),
    "all of it": empty,
    "the seal": lambda c: flip(c.with_name(f"{c.name}.sealed")),
    "the seal emptied": lambda c: c.with_name(f"{c.name}.sealed").write_bytes(b""),
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
    before = (copy / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match=f"the data is not what .* was trained on: the {named}"):
        run(CONFIG, copy, dataset)
    assert (copy / "metrics.jsonl").read_bytes() == before


# --- places


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("run[1]", r"has a \[ in it"),
        ("run*", r"has a \* in it"),
        ("gs://bucket/run", "is remote"),
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
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"task_00.npz is damaged"):
        SavedRun.open(copy)
