"""The streamed feed: the results of the resident one, bounded memory, and errors that arrive."""

import pathlib
import threading
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from PIL import Image
from tiny_run import (
    assert_same_run,
    flat_images,
    make_config,
    run_with_interruption,
    some_digits,
    without_timing,
)

from bsce_jax.data import ArraySource, Dataset, crops, load, stream
from bsce_jax.data.decode import random_resized_crop
from bsce_jax.data.feed import FEEDS, ResidentFeed
from bsce_jax.data.stream import StreamedFeed
from bsce_jax.errors import UserError
from bsce_jax.training import mesh as mesh_lib
from bsce_jax.training import problem as problem_lib
from bsce_jax.training.fit import ahead
from bsce_jax.training.loop import run

CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "il_baseline": ("il_baseline", "balanced_softmax", {"train.augmentation": "crop+flip"}),
    "podnet fine-tuned": ("podnet", "nca", {"method.finetune_epochs": 2}),
    "ss_il": ("ss_il", "separated_softmax", {}),
    "bic": ("bic", "cross_entropy", {}),
    "learned weight": ("il_baseline", "meta_balanced_softmax", {}),
    "ewc": ("ewc", "cross_entropy", {}),
}


def config(case: str, feed: str) -> Any:
    method, loss, fields = CASES[case]
    return make_config(method, loss, {**fields, "runtime.feed": feed, "train.batch_size": 16})


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=pytest.mark.slow) if c in ("ewc", "ss_il", "bic") else c for c in CASES],
)
def test_a_streamed_run_is_a_resident_one(case: str, tmp_path: pathlib.Path) -> None:
    dataset = some_digits()
    results = [run(config(case, f), tmp_path / f, dataset) for f in ("resident", "streamed")]
    assert_same_run(tmp_path / "resident", tmp_path / "streamed", 1)
    assert without_timing(results[0]) == without_timing(results[1])


def test_it_resumes_bit_for_bit_in_chunks_of_one_step(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(problem_lib, "CHUNK_BYTES", 1)
    made = config("il_baseline", "streamed")
    straight = run(made, tmp_path / "straight", some_digits())
    again = run_with_interruption(made, some_digits(), tmp_path / "run", "stopped", task=1, epoch=2)
    assert without_timing(again) == without_timing(straight)
    assert_same_run(tmp_path / "run", tmp_path / "straight", 1)


class Noted(ArraySource):
    """Notes how many images are read at a time."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.read: list[int] = []

    def images(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        self.read.append(len(indices))
        return super().images(np.asarray(indices))


def test_no_more_than_a_chunk_or_a_batch_is_read_at_a_time(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(problem_lib, "CHUNK_BYTES", 2 * 16 * 64)  # two steps of 16 digits
    monkeypatch.setattr("bsce_jax.training.probe.BATCH", 24)
    monkeypatch.setattr("bsce_jax.runs.exemplars.CHUNK", 24)
    whole = some_digits()
    train, test = (
        Noted(s.images(np.arange(len(s.labels))), s.labels) for s in (whole.train, whole.test)
    )
    dataset = Dataset("noted", train, test, whole.class_names, whole.mean, whole.std)
    run(config("il_baseline", "streamed"), tmp_path, dataset)
    assert max(train.read) == 32
    assert max(test.read) == 24


def test_a_row_has_the_images_of_its_records() -> None:
    dataset = flat_images([5, 4], (3, 2))
    mesh = mesh_lib.make_mesh()
    feed = StreamedFeed(dataset.train, np.arange(9), mesh)
    records = np.array([[3, 1], [8, 3], [0, 0]])
    row = feed.put(records)
    assert isinstance(row.sharding, NamedSharding)
    assert row.sharding.spec == PartitionSpec(None, "data")
    wanted = np.stack([dataset.train.images(r) for r in records])
    np.testing.assert_array_equal(feed.images(feed.constants, row), wanted)
    assert feed.record_bytes == 6


@pytest.mark.parametrize(("memory", "kind"), [(4 * 54, ResidentFeed), (4 * 53, StreamedFeed)])
def test_auto_streams_what_takes_more_than_a_quarter_of_the_memory(
    memory: int, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_host_memory", lambda: memory)
    dataset = flat_images([9], (3, 2))  # 54 bytes
    assert type(FEEDS["auto"](dataset.train, np.arange(9), mesh_lib.make_mesh())) is kind


def test_an_image_that_cannot_be_read_ends_the_run(tmp_path: pathlib.Path) -> None:
    class Broken(Noted):
        def images(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
            if 150 in np.asarray(indices):
                raise UserError("cannot read number 150 as an image")
            return super().images(indices)

    whole = some_digits()
    train = Broken(whole.train.images(np.arange(200)), whole.train.labels)
    dataset = Dataset("broken", train, whole.test, whole.class_names, whole.mean, whole.std)
    threads = threading.active_count()
    with pytest.raises(UserError, match="cannot read number 150"):
        run(config("il_baseline", "streamed"), tmp_path, dataset)
    deadline = time.monotonic() + 20
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= threads


def test_things_are_made_a_few_ahead_and_in_order() -> None:
    made: list[int] = []
    taken = []
    enough = threading.Event()

    def make(i: int) -> int:
        made.append(i)
        if i == 2:
            enough.set()
        return i * i

    things = ahead(make, range(5), depth=2)
    taken.append(next(things))
    taken.append(next(things))
    enough.wait(20)
    assert max(made) <= 3  # two ahead of the two that were taken
    assert taken + list(things) == [0, 1, 4, 9, 16]


def test_an_error_is_raised_where_the_thing_is_taken_and_ends_the_thread() -> None:
    def make(i: int) -> int:
        if i == 1:
            raise UserError("one")
        return i

    things = ahead(make, range(5))
    assert next(things) == 0
    with pytest.raises(UserError, match="one"):
        next(things)


# --- crops of stored images


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Four classes of noise in files of 20x14 pixels."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    for name in ("ant", "bee", "cat", "dog"):
        for split, count in (("train", 10), ("val", 2)):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                image = Image.fromarray(rng.integers(0, 256, (14, 20, 3), np.uint8))
                image.save(folder / split / name / f"{number}.png")
    return folder


def crop_config(files: pathlib.Path, **fields: Any) -> Any:
    base = {
        "dataset.name": "image_folder",
        "dataset.data_dir": str(files),
        "dataset.image_size": 8,
        "scenario.base": 2,
        "scenario.increment": 2,
        "train.augmentation": "source_crop+flip",
        "train.batch_size": 8,
    }
    more = {name.replace("__", "."): value for name, value in fields.items()}
    return make_config("il_baseline", "balanced_softmax", {**base, **more})


def test_a_row_of_crops_is_cut_from_the_files(files: pathlib.Path) -> None:
    source = load("image_folder", files, 8).train
    feed = StreamedFeed(source, np.arange(40), mesh_lib.make_mesh())
    records = np.array([[3, 31], [3, 0]])
    seeds = crops.seeds(0, 1, 2, np.array([[0, 1], [0, 3]]))
    row = np.asarray(feed.put_crops(records, seeds))
    assert row.shape == (2, 2, 8, 8, 3)
    for place, record in np.ndenumerate(records):
        name = ("ant", "bee", "cat", "dog")[record // 10]
        with Image.open(files / "train" / name / f"{record % 10}.png") as image:
            wanted = random_resized_crop(image, 8, int(seeds[place]))
        np.testing.assert_array_equal(row[place], wanted)
    np.testing.assert_array_equal(row[0, 0], row[1, 0])  # by the same seed


def test_an_exemplar_that_is_drawn_twice_has_two_crops(
    files: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight exemplars of two classes are added to three batches of an epoch, four to each."""
    asked: list[tuple[np.ndarray, np.ndarray]] = []
    put = StreamedFeed.put_crops

    def put_crops(self: StreamedFeed, records: np.ndarray, seeds: np.ndarray) -> jax.Array:
        asked.append((records, seeds))
        return put(self, records, seeds)

    monkeypatch.setattr(StreamedFeed, "put_crops", put_crops)
    fields = {"train__replay_batch_size": 4, "train__epochs": 1, "memory__size": 4}
    run(crop_config(files, **fields), tmp_path)
    records, seeds = asked[-1]
    assert records.shape == (3, 12)
    assert len(set(records[:, 8:].flat)) < 12  # some exemplar more than once
    assert len(set(seeds.flat)) == 36


def test_a_run_on_crops_resumes_bit_for_bit(files: pathlib.Path, tmp_path: pathlib.Path) -> None:
    made = crop_config(files)
    straight = run(made, tmp_path / "straight")
    with pytest.MonkeyPatch.context() as patch:  # other pieces, other threads
        patch.setattr(problem_lib, "CHUNK_BYTES", 2 * 8 * 192)
        again = load("image_folder", files, 8)
        results = run_with_interruption(made, again, tmp_path / "run", "stopped", task=1, epoch=2)
    assert without_timing(results) == without_timing(straight)
    whole = run(crop_config(files, train__augmentation="flip"), tmp_path / "whole")
    assert whole["cnn"] != straight["cnn"] or whole["memory"] != straight["memory"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"runtime__feed": "resident"}, "runtime.feed is resident: .* needs streamed"),
        ({"dataset__name": "digits"}, "digits has no image files to crop, use resized_crop"),
    ],
)
def test_what_cannot_be_cropped_is_refused(
    fields: dict[str, str], message: str, files: pathlib.Path
) -> None:
    with pytest.raises(UserError, match=message):
        problem_lib.Problem(crop_config(files, **fields))
