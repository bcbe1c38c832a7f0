"""Prepared tfds sets by name: what is read, which splits, labels of their own, what is refused."""

import logging
import os
import pathlib
import shutil
import subprocess
import sys
from typing import Any
from unittest import mock

import numpy as np
import pytest
import tensorflow_datasets as tfds
import tiny_cifar100
import tiny_tfds

from bsce_jax import config, data
from bsce_jax.data import cifar100, tfds_source
from bsce_jax.errors import UserError
from bsce_jax.prepare import main
from bsce_jax.training.problem import Problem

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A set `photos` whose red values tell the record and the split: 0..6, 50..53 and 100..101."""
    return tiny_tfds.photos(tmp_path / "photos" / "1.0.0", train=7, validation=4, test=2)


def reds(split: data.Source) -> list[int]:
    images = data.all_images(split)
    assert (images[..., 1:] == 0).all()
    return images[:, 0, 0, 0].tolist()


def refused(name: str, data_dir: pathlib.Path, *arguments: Any) -> str:
    with pytest.raises(UserError) as error:
        data.load(name, data_dir, *arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- what is read


def test_images_and_labels_come_by_record(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    loaded = data.load("tfds:photos", tmp_path, 4)
    assert loaded.name == "photos"
    assert loaded.class_names == ("ant", "bee")
    assert loaded.image_shape == (4, 4, 3)
    assert reds(loaded.train) == [0, 1, 2, 3, 4, 5, 6]
    assert reds(loaded.test) == [50, 51, 52, 53]
    assert loaded.train.labels.tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert loaded.train.images(np.array([5, 0, 5]))[:, 0, 0, 0].tolist() == [5, 0, 5]
    assert loaded.train.images([]).shape == (0, 4, 4, 3)
    for split in (loaded.train, loaded.test):
        assert split.images([0]).dtype == np.uint8
        assert split.labels.dtype == np.int32
    assert loaded.mean == (0.485, 0.456, 0.406)


def test_images_are_resized_as_those_in_folders(tmp_path: pathlib.Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    features = {
        "photo": tfds.features.Image(),
        "kind": tfds.features.ClassLabel(num_classes=1),
        "file_name": tfds.features.Text(),
    }
    record = lambda: {"photo": tiny_tfds.png(pixels), "kind": 0, "file_name": "a"}
    tiny_tfds.write(tmp_path / "x" / "1.0.0", features, {"train": [record()], "test": [record()]})
    for split in ("train", "val"):
        (tmp_path / split / "0").mkdir(parents=True)
        (tmp_path / split / "0" / "a.png").write_bytes(tiny_tfds.png(pixels).read())
    for size in (8, 28):
        ours = data.load("tfds:x", tmp_path, size)
        theirs = data.load("image_folder", tmp_path, size)
        assert ours.class_names == theirs.class_names
        for a, b in ((ours.train, theirs.train), (ours.test, theirs.test)):
            np.testing.assert_array_equal(data.all_images(a), data.all_images(b))


@pytest.mark.parametrize(
    ("splits", "train", "test"),
    [
        ({"train": 3, "test": 2}, [0, 1, 2], [50, 51]),
        ({"test": 2, "train": 3, "validation": 1}, [50, 51, 52], [100]),
    ],
)
def test_usual_splits(
    tmp_path: pathlib.Path, splits: dict[str, int], train: list[int], test: list[int]
) -> None:
    tiny_tfds.photos(tmp_path / "x" / "1.0.0", **splits)
    loaded = data.load("tfds:x", tmp_path, 4)
    assert (reds(loaded.train), reds(loaded.test)) == (train, test)


def test_splits_as_tfds_writes_them(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    load = lambda *splits: data.load("tfds:photos", tmp_path, 4, *splits)
    loaded = load("train[:4]", "train[4:]")
    assert reds(loaded.train) == [0, 1, 2, 3]
    assert reds(loaded.test) == [4, 5, 6]
    assert loaded.test.labels.tolist() == [0, 1, 0]
    assert reds(load("train+validation", "test").train) == [*range(7), *range(50, 54)]
    assert reds(load("train[:50%]", "").train) == [0, 1, 2, 3]  # tfds rounds 3.5
    identities = {load(train, "test").train.identity for train in ("", "train[:6]", "train[1:]")}
    assert len(identities) == 3
    assert load("train", "").identity == load().identity


def test_grey_images_of_one_size_need_no_size(tmp_path: pathlib.Path) -> None:
    """As MNIST."""
    pixels = np.arange(3 * 16, dtype=np.uint8).reshape(3, 4, 4)
    features = {
        "image": tfds.features.Image(shape=(4, 4, 1)),
        "label": tfds.features.ClassLabel(num_classes=2),
    }
    records = lambda: [{"image": tiny_tfds.png(p), "label": i % 2} for i, p in enumerate(pixels)]
    tiny_tfds.write(tmp_path / "x" / "1.0.0", features, {"train": records(), "test": records()})
    loaded = data.load("tfds:x", tmp_path)
    assert loaded.image_shape == (4, 4, 1)
    assert loaded.class_names == ("0", "1")
    for split in (loaded.train, loaded.test):
        np.testing.assert_array_equal(data.all_images(split)[..., 0], pixels)
    assert (loaded.mean, loaded.std) == ((0.449,), (0.226,))
    assert data.load("tfds:x", tmp_path, 2).train.images([0]).shape == (1, 2, 2, 1)
    sizes = {None: "whole_square", 4: "whole_square", 2: "central_crop"}
    for size, fit in sizes.items():  # how a photo is fitted
        test = data.load("tfds:x", tmp_path, size).test
        assert isinstance(test, data.FittedSource)
        assert test.fit == fit


def test_raw_images_are_read_as_they_are(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our own CIFAR-100, by its other name."""
    official = tmp_path / "official" / cifar100.FOLDER
    tiny_cifar100.write(official, monkeypatch)
    main(["cifar100", "--source", str(official), "--data_dir", str(tmp_path)])
    loaded = data.load("tfds:cifar100_python", tmp_path)
    expected = data.load("cifar100", tmp_path)
    assert loaded.class_names == expected.class_names
    for a, b in ((loaded.train, expected.train), (loaded.test, expected.test)):
        np.testing.assert_array_equal(a.labels, b.labels)
        np.testing.assert_array_equal(data.all_images(a), data.all_images(b))
    small = data.load("tfds:cifar100_python", tmp_path, 16)
    np.testing.assert_array_equal(
        data.all_images(small.train), data.all_images(expected.resized(16).train)
    )


def test_tensorflow_is_not_imported_where_it_is_installed(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """And the identity is that of another process."""
    (tmp_path / "tensorflow.py").write_text("raise AssertionError('tensorflow is imported')")
    script = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from bsce_jax import data
loaded = data.load("tfds:photos", {str(tmp_path)!r}, 4)
loaded.train.images([0, 1])
assert "tensorflow" not in sys.modules
print(loaded.identity)
"""
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    assert result.stdout.strip() == data.load("tfds:photos", tmp_path, 4).identity


def test_identity_is_of_the_data_and_not_of_the_place(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    load = lambda path, size=4: data.load("tfds:photos", path, size)
    first = load(tmp_path)
    shutil.copytree(folder.parent, tmp_path / "copy" / "photos")
    assert load(tmp_path / "copy").identity == first.identity
    assert load(tmp_path, 5).identity != first.identity
    assert first.train.identity != first.test.identity
    with mock.patch.object(tfds_source, "RULES", 1):
        assert load(tmp_path).identity != first.identity
    tiny_tfds.photos(tmp_path / "more" / "photos" / "1.0.0", train=8, validation=4, test=2)
    assert load(tmp_path / "more").identity != first.identity
    (folder / "SHA256SUMS").write_text("x")
    assert load(tmp_path).identity != first.identity


# --- names, versions, configs


def test_the_newest_version_is_read_unless_one_is_named(tmp_path: pathlib.Path) -> None:
    for version, count in (("9.0.0", 3), ("10.0.0", 4)):
        tiny_tfds.photos(tmp_path / "photos" / version, train=count, test=1)
    (tmp_path / "photos" / "incomplete.X_11.0.0").mkdir()
    assert len(data.load("tfds:photos", tmp_path, 4).train.labels) == 4
    assert len(data.load("tfds:photos:9.0.0", tmp_path, 4).train.labels) == 3
    expected = f"no version 3.0.0 of photos in {tmp_path}: there is 9.0.0, 10.0.0"
    assert refused("tfds:photos:3.0.0", tmp_path, 4) == expected


def test_a_config_is_part_of_the_name(tmp_path: pathlib.Path) -> None:
    tiny_tfds.photos(tmp_path / "photos" / "64x64" / "1.0.0", train=3, test=1)
    assert len(data.load("tfds:photos/64x64", tmp_path, 4).train.labels) == 3
    assert len(data.load("tfds:photos/64x64:1.0.0", tmp_path, 4).train.labels) == 3
    assert refused("tfds:photos", tmp_path, 4).endswith(": say tfds:photos/64x64")


def test_names_of_the_config() -> None:
    c = config.default("replay", None)
    for name in ("tfds:mnist", "tfds:imagenet_resized/64x64:0.1.0", "imagenet"):
        c.dataset.name = name
        config.check(c)
    for name in ("tfds:", "tfds:../x", "tfds:x/..", "tfds:x:1", "tfds:/x", "tfds"):
        c.dataset.name = name
        with pytest.raises(UserError, match=r"unknown dataset\.name '.*tfds:NAME\[:VERSION\]"):
            config.check(c)


def test_a_config_chooses_set_and_splits(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    c = config.default("replay", None)
    c.dataset.name, c.dataset.data_dir, c.dataset.image_size = "tfds:photos", str(tmp_path), 4
    c.dataset.train_split, c.dataset.test_split = "train[:4]", "train[4:]+test"
    c.scenario.increment, c.train.batch_size = 1, 4
    problem = Problem(c)
    assert reds(problem.dataset.train) == [0, 1, 2, 3]
    assert reds(problem.dataset.test) == [4, 5, 6, 100, 101]
    assert problem.scenario.num_tasks == 2


def test_a_set_that_is_not_prepared_says_how(tmp_path: pathlib.Path) -> None:
    assert refused("tfds:mnist", tmp_path) == (
        f"no prepared mnist in {tmp_path}: prepare it with "
        f"`python -m bsce_jax.prepare tfds:mnist --data_dir {tmp_path}`"
    )


def test_preparing_says_what_is_missing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"tfds:mnist needs TensorFlow: pip install 'bsce_jax\[tf\]'"
    ):
        main(["tfds:mnist", "--data_dir", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


# --- labels


def test_labels_are_read_once(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """The second start reads no records. The files are those of the splits that were read."""
    first = data.load("tfds:photos", tmp_path, 4)
    files = sorted(folder.glob("labels-*.npy"))
    assert sorted(np.load(file).tolist() for file in files) == sorted(
        [first.train.labels.tolist(), first.test.labels.tolist()]
    )
    with mock.patch.object(tfds_source.TfdsSource, "read", side_effect=AssertionError):
        again = data.load("tfds:photos", tmp_path, 9)
        np.testing.assert_array_equal(again.train.labels, first.train.labels)
        with pytest.raises(AssertionError):
            data.load("tfds:photos", tmp_path, 4, "train[1:]")


@pytest.mark.parametrize("damage", ["cut", "changed", "longer", "empty", "other"])
def test_damaged_labels_are_read_anew(
    folder: pathlib.Path, tmp_path: pathlib.Path, damage: str
) -> None:
    first = data.load("tfds:photos", tmp_path, 4)
    file = tfds_source.labels_file(folder, first.train.key)  # type: ignore[attr-defined]  # of TfdsSource
    content = file.read_bytes()
    changed = bytearray(content)
    changed[-20] ^= 1  # of a label
    file.write_bytes(
        {
            "cut": content[:-1],
            "changed": bytes(changed),
            "longer": content + b"x",
            "empty": b"",
            "other": b"not numpy's",
        }[damage]
    )
    again = data.load("tfds:photos", tmp_path, 4)
    np.testing.assert_array_equal(again.train.labels, first.train.labels)
    assert file.read_bytes() == content


def test_a_folder_that_cannot_be_written_is_read(
    folder: pathlib.Path, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    failure = PermissionError(13, "Permission denied")
    with (
        mock.patch.object(tfds_source, "write_atomically", side_effect=failure),
        caplog.at_level(logging.WARNING),
    ):
        assert len(data.load("tfds:photos", tmp_path, 4).train.labels) == 7
    assert "(Permission denied): labels are read anew" in caplog.text
    assert not list(folder.glob("labels-*"))


# --- what is refused


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"image": tfds.features.Image()}, "one ClassLabel is needed, and it has none"),
        (
            {
                "image": tfds.features.Image(),
                "a": tfds.features.ClassLabel(num_classes=2),
                "b": tfds.features.ClassLabel(num_classes=2),
            },
            "has the features a, b, image: one ClassLabel is needed, and it has a, b",
        ),
        ({"a": tfds.features.ClassLabel(num_classes=2)}, "one image is needed, and it has none"),
        (
            {
                "a": tfds.features.ClassLabel(num_classes=2),
                "x": tfds.features.Image(),
                "y": tfds.features.Image(),
            },
            "one image is needed, and it has x, y",
        ),
        (
            {
                "a": tfds.features.ClassLabel(num_classes=2),
                "x": tfds.features.Image(shape=(4, 4, 1), dtype=np.uint16),
            },
            "has images of uint16: uint8 is right",
        ),
        (
            {
                "a": tfds.features.ClassLabel(num_classes=2),
                "x": tfds.features.Tensor(shape=(None, 4, 3), dtype=np.uint8),
            },
            "has raw images of different shapes: one shape is needed",
        ),
    ],
)
def test_sets_of_something_else_are_refused(
    tmp_path: pathlib.Path, features: dict[str, Any], message: str
) -> None:
    tiny_tfds.write(tmp_path / "x" / "1.0.0", features, {"train": [], "test": []})
    assert message in refused("tfds:x", tmp_path, 4)


def test_images_of_different_sizes_need_a_size(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    assert refused("tfds:photos", tmp_path).startswith(
        f"dataset.image_size is needed for {folder}, whose images have different sizes"
    )


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (
            ("tran", ""),
            "dataset.train_split is 'tran', and .* has train, validation, test: Unknown",
        ),
        (("", "test[:x]"), r"dataset.test_split is 'test\[:x\]', and .*: Error parsing"),
        (("train[:0]", ""), "dataset.train_split is .*: it selects no images"),
        (("train", "train[6:]"), r"train and dataset.test_split train\[6:\] of .* share images"),
    ],
)
def test_invalid_splits_are_refused(
    folder: pathlib.Path, tmp_path: pathlib.Path, splits: tuple[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        data.load("tfds:photos", tmp_path, 4, *splits)


def test_splits_are_for_tfds_sets(tmp_path: pathlib.Path) -> None:
    assert refused("digits", tmp_path, None, "train").startswith(
        "dataset.train_split and dataset.test_split are for tfds:NAME sets: digits has"
    )


def test_a_set_without_test_images_is_refused(tmp_path: pathlib.Path) -> None:
    folder = tiny_tfds.photos(tmp_path / "x" / "1.0.0", train=2)
    assert refused("tfds:x", tmp_path, 4) == (
        f"{folder} has no split validation or test: set dataset.test_split, there is train"
    )
    assert reds(data.load("tfds:x", tmp_path, 4, "train[:1]", "train[1:]").test) == [1]


def test_images_without_label_are_refused(tmp_path: pathlib.Path) -> None:
    """As in the test split of imagenet2012."""
    features = {
        "image": tfds.features.Image(),
        "label": tfds.features.ClassLabel(num_classes=2),
    }
    hidden = [record | {"label": -1} for record in tiny_tfds.coloured(2)]
    folder = tiny_tfds.write(
        tmp_path / "x" / "1.0.0", features, {"train": tiny_tfds.coloured(2), "test": hidden}
    )
    assert refused("tfds:x", tmp_path, 4) == (
        f"split test of {folder} has images without label: choose another"
    )


def test_tfrecord_says_what_to_do(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    file = folder / "dataset_info.json"
    file.write_text(file.read_text().replace('"array_record"', '"tfrecord"'))
    message = refused("tfds:photos", tmp_path, 4)
    assert message.startswith(f"{folder} is stored as tfrecord, which only TensorFlow reads")
    assert message.endswith("`python -m bsce_jax.prepare tfds:photos --data_dir OTHER`")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("dataset_info.json", b'{"name":'),
        ("dataset_info.json", b'{"other": 1}'),
        ("dataset_info.json", b"\xff\xfe"),
        ("features.json", b"{"),
        ("features.json", b"{}"),
        ("features.json", b"[]"),
        ("features.json", None),
    ],
)
def test_damaged_metadata_is_refused(
    folder: pathlib.Path, tmp_path: pathlib.Path, name: str, content: bytes | None
) -> None:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    assert f"the data set in {folder} is damaged: " in refused("tfds:photos", tmp_path, 4)


@pytest.mark.parametrize("damage", ["gone", "half", "empty", "flipped", "of another set"])
def test_damaged_records_are_named(
    folder: pathlib.Path, tmp_path: pathlib.Path, damage: str
) -> None:
    data.load("tfds:photos", tmp_path, 4)
    file = folder / "photos-train.array_record-00000-of-00003"
    content = file.read_bytes()
    flipped = bytearray(content)
    flipped[200] ^= 1
    other = folder / "photos-test.array_record-00000-of-00001"
    file.unlink()
    if damage != "gone":
        file.write_bytes(
            {
                "half": content[: len(content) // 2],
                "empty": b"",
                "flipped": bytes(flipped),
                "of another set": other.read_bytes(),
            }[damage]
        )
    loaded = data.load("tfds:photos", tmp_path, 4)  # the first one has the file open
    record = 2 if damage == "of another set" else 0
    assert loaded.train.images([5]).shape == (1, 4, 4, 3)  # of another file
    with pytest.raises(UserError, match=rf"^record {record} of train in .* is damaged: "):
        loaded.train.images([record])


def test_a_record_that_is_no_image_is_named(tmp_path: pathlib.Path) -> None:
    features = {
        "image": tfds.features.Image(),
        "label": tfds.features.ClassLabel(num_classes=1),
    }
    file = tmp_path / "text.png"
    file.write_text("text")
    records = lambda: [{"image": os.fspath(file), "label": 0}]
    tiny_tfds.write(tmp_path / "x" / "1.0.0", features, {"train": records(), "test": records()})
    loaded = data.load("tfds:x", tmp_path, 4)
    with pytest.raises(UserError, match=r"cannot read record 0 of test in .* image: it is no"):
        loaded.test.images([0])


def test_an_image_of_another_shape_is_named(tmp_path: pathlib.Path) -> None:
    features = {
        "image": tfds.features.Image(shape=(4, 4, 3)),
        "label": tfds.features.ClassLabel(num_classes=2),
    }
    tiny_tfds.write(
        tmp_path / "x" / "1.0.0",
        features,
        {"train": tiny_tfds.coloured(1), "test": tiny_tfds.coloured(1)},
    )
    loaded = data.load("tfds:x", tmp_path)
    with pytest.raises(UserError, match=r"record 0 of train in .* has 6x8 pixels: set image_size"):
        loaded.train.images([0])
    assert data.load("tfds:x", tmp_path, 4).train.images([0]).shape == (1, 4, 4, 3)
