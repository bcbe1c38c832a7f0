"""Data sets: what is loaded, and that damaged or hostile files are refused."""

import hashlib
import io
import pathlib
import pickle
import subprocess
import sys
import tarfile
import tempfile
import tracemalloc
from unittest import mock

import numpy as np
import pytest
import tiny_cifar100
from hypothesis import given, settings
from hypothesis import strategies as st

from bsce_jax import data
from bsce_jax.data import cifar100
from bsce_jax.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    path = tmp_path / "data" / cifar100.FOLDER
    tiny_cifar100.write(path, monkeypatch)
    return path


def assert_same(a: data.Dataset, b: data.Dataset) -> None:
    assert a.class_names == b.class_names
    assert (a.name, a.mean, a.std) == (b.name, b.mean, b.std)
    for x, y in ((a.train, b.train), (a.test, b.test)):
        ours, theirs = data.all_images(x), data.all_images(y)
        assert ours.dtype == theirs.dtype == np.uint8
        assert x.labels.dtype == y.labels.dtype == np.int32
        np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(x.labels, y.labels)
    assert a.identity == b.identity


# --- by name


def test_unknown_name_is_told_the_nearest_one() -> None:
    names = ["cifar100", "digits", "image_folder", "imagenet", "imagenet_subset"]
    assert list(data.DATASETS) == names
    with pytest.raises(UserError, match=r"unknown data set 'cifar10'; did you mean cifar100\?"):
        data.load("cifar10", ".")


# --- digits


def test_digits_are_split_within_each_class() -> None:
    digits = data.load("digits", "nowhere")
    train, test = data.all_images(digits.train), data.all_images(digits.test)
    assert train.shape == (1442, 8, 8, 1)
    assert test.shape == (355, 8, 8, 1)
    assert digits.image_shape == (8, 8, 1)
    assert digits.num_classes == 10
    assert train.dtype == test.dtype == np.uint8
    assert digits.train.labels.dtype == digits.test.labels.dtype == np.int32
    # the file starts 0 1 2 ... 9 0 1 2 ..., so that the first test image is the fifth 0
    assert digits.train.labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    # 178 zeros: 35 whole groups of five; 177 twos; 174 eights (load_digits().target)
    assert np.bincount(digits.test.labels).tolist() == [35, 36, 35, 36, 36, 36, 36, 35, 34, 36]
    assert np.bincount(digits.train.labels)[[0, 2, 8]].tolist() == [143, 142, 140]


def test_digits_are_normalised_by_their_statistics() -> None:
    digits = data.load("digits", "nowhere")
    pixels = data.all_images(digits.train).astype(np.float64).ravel() / 255
    (mean,), (std,) = digits.mean, digits.std
    assert np.mean((pixels - mean) / std) == pytest.approx(0, abs=1e-9)
    assert np.mean(((pixels - mean) / std) ** 2) == pytest.approx(1)


def test_digits_are_those_of_scikit_learn() -> None:
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    original = datasets.load_digits()
    embedded = data.load("digits", "nowhere")
    images = np.concatenate([data.all_images(s) for s in (embedded.train, embedded.test)])[..., 0]
    labels = np.concatenate([embedded.train.labels, embedded.test.labels])
    # back to the file's order: by hand, from the rule of the split
    rank = [np.sum(original.target[:i] == c) for i, c in enumerate(original.target)]
    is_test = np.array(rank) % 5 == 4
    order = np.concatenate([np.flatnonzero(~is_test), np.flatnonzero(is_test)])
    np.testing.assert_array_equal(labels, original.target[order])
    np.testing.assert_array_equal(np.rint(images / 255 * 16), original.images[order])
    assert images.max() == 255


# --- CIFAR-100, made up


def test_planar_images_become_channels_last(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = tiny_cifar100.write(tmp_path / cifar100.FOLDER, monkeypatch)
    tiny = data.load("cifar100", tmp_path)
    assert tiny.image_shape == (32, 32, 3)
    assert tiny.num_classes == 100
    assert tiny.class_names == tiny_cifar100.CLASS_NAMES
    for split, name in ((tiny.train, "train"), (tiny.test, "test")):
        np.testing.assert_array_equal(split.labels, arrays[name + "_labels"])
        images = data.all_images(split)
        for channel in range(3):
            plane = arrays[name][:, 1024 * channel : 1024 * (channel + 1)]
            np.testing.assert_array_equal(images[..., channel].reshape(-1, 1024), plane)


def test_folder_its_parent_and_archive_are_the_same(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    archive = tiny_cifar100.pack(folder, tmp_path / "any name.tar.gz")
    expected = data.load("cifar100", folder.parent)
    for source in (folder, folder.parent, archive):
        assert_same(cifar100.read_official(source), expected)
    assert_same(data.load("cifar100", folder), expected)


@pytest.mark.parametrize("name", ["my data", "nested/data"])
def test_missing_data_names_the_two_commands(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        data.load("cifar100", name)
    quoted = f"'{name}'" if " " in name else name
    command = "`python -m bsce_jax.prepare cifar100"
    assert f"{command} --data_dir {quoted}`" in str(error.value)
    assert f"{command} --source PATH --data_dir {quoted}`" in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_changed_file_is_refused_with_both_checksums(folder: pathlib.Path, name: str) -> None:
    expected = cifar100.MD5[name]
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    got = hashlib.md5(content).hexdigest()
    with pytest.raises(UserError, match=f"{name} in .* its md5 is {got}, not {expected}; get it"):
        data.load("cifar100", folder.parent)


def test_file_that_is_not_there_is_named(folder: pathlib.Path) -> None:
    (folder / "meta").unlink()
    with pytest.raises(UserError, match=r"cannot read .*meta: No such file"):
        data.load("cifar100", folder.parent)


def touch(path: pathlib.Path) -> bytes:
    """A pickle that runs a shell command when it is loaded."""
    argument = tiny_cifar100.body((f"touch {path}".encode(),))
    # Python 3 wants the command as text; Python 2's string is text with encoding ASCII
    return b"\x80\x02" + tiny_cifar100.global_("posix", "system") + argument + b"R."


def test_hostile_pickle_does_not_run(
    folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = tmp_path / "trace"
    hostile = touch(trace)
    pickle.loads(hostile)
    assert trace.exists()  # it would run
    trace.unlink()
    for name in cifar100.MD5:
        with monkeypatch.context() as patch:
            good = (folder / name).read_bytes()
            tiny_cifar100.write_file(folder / name, hostile, patch)
            with pytest.raises(UserError, match=r"not a CIFAR-100 file: it asks for posix\.system"):
                data.load("cifar100", folder.parent)
            (folder / name).write_bytes(good)
    assert not trace.exists()


@pytest.mark.parametrize(
    "value",
    [
        {b"data": np.zeros((1, 3072), np.int64), b"fine_labels": [0]},
        {b"data": np.zeros((1, 3072), np.uint8)},
        {b"data": [0] * 3072, b"fine_labels": [0]},
        {b"data": np.zeros((1, 3071), np.uint8), b"fine_labels": [0]},
        {b"data": np.zeros((1, 3072), np.uint8), b"fine_labels": [b"apple"]},
        [],
    ],
)
def test_pickle_of_something_else_is_refused(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, value: object
) -> None:
    tiny_cifar100.write_file(folder / "train", tiny_cifar100.pickled(value), monkeypatch)
    with pytest.raises(UserError, match=r"train in .* is not a CIFAR-100 file"):
        data.load("cifar100", folder.parent)


RECORD = tiny_cifar100.pickled({b"data": np.zeros((1, 3072), np.uint8), b"fine_labels": [0]})


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_any_damage_is_a_user_error(draw: st.DataObject) -> None:
    """Whatever bytes are changed, reading gives arrays or a `UserError`."""
    content = bytearray(RECORD)
    structure = [*range(200), *range(len(content) - 40, len(content))]
    for _ in range(draw.draw(st.integers(1, 4))):
        content[draw.draw(st.sampled_from(structure))] = draw.draw(st.integers(0, 255))
    with (
        tempfile.TemporaryDirectory() as name,
        mock.patch.dict(cifar100.MD5, {n: hashlib.md5(content).hexdigest() for n in cifar100.MD5}),
    ):
        for file in cifar100.MD5:
            pathlib.Path(name, file).write_bytes(content)
        with pytest.raises(UserError, match="is not a CIFAR-100 file"):  # meta never is one
            cifar100.read_official(pathlib.Path(name))


# --- the archive


@pytest.mark.parametrize("damage", ["truncated", "empty", "something else"])
def test_damaged_archive_is_refused_with_both_checksums(
    folder: pathlib.Path, tmp_path: pathlib.Path, damage: str
) -> None:
    archive = tiny_cifar100.pack(folder, tmp_path / "a.tar.gz")
    content = archive.read_bytes()
    archive.write_bytes(
        {
            "truncated": content[: len(content) // 2],
            "empty": b"",
            "something else": b"<html>not found</html>",
        }[damage]
    )
    got = hashlib.md5(archive.read_bytes()).hexdigest()
    expected = "eb9058c3a382ffc7106e4002c42a8d85"
    with pytest.raises(UserError, match=f"its md5 is {got}, not {expected}; get it") as error:
        cifar100.read_official(archive)
    assert "\n" not in str(error.value)


def test_archive_with_a_changed_file_is_refused(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with (folder / "train").open("ab") as f:
        f.write(b"more")
    archive = tiny_cifar100.pack(folder, tmp_path / "a.tar.gz")
    with pytest.raises(UserError, match=rf"train in .*a\.tar\.gz .*, not {cifar100.MD5['train']};"):
        cifar100.read_official(archive)


def test_a_small_archive_of_a_huge_file_takes_little_memory(
    folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cifar100, "LARGEST", 2**20)
    (folder / "train").write_bytes(bytes(64 * 2**20))
    archive = tiny_cifar100.pack(folder, tmp_path / "a.tar.gz")
    assert archive.stat().st_size < 2**18
    for source in (archive, folder):
        tracemalloc.start()
        with pytest.raises(UserError, match=r"train in .* is damaged or not of CIFAR-100"):
            cifar100.read_official(source)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 16 * 2**20


def test_nothing_is_written_from_an_archive(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    archive = tmp_path / "a" / "b" / "evil.tar.gz"
    archive.parent.mkdir(parents=True)
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("../evil", str(tmp_path / "evil"), f"../{cifar100.FOLDER}/evil"):
            member = tarfile.TarInfo(name)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"evil"))
        link = tarfile.TarInfo(f"{cifar100.FOLDER}/train")
        link.type, link.linkname = tarfile.SYMTYPE, str(folder / "train")
        tar.addfile(link)
        tar.add(folder, cifar100.FOLDER)
    before = sorted(tmp_path.rglob("*"))
    assert_same(cifar100.read_official(archive), cifar100.read_official(folder))
    assert sorted(tmp_path.rglob("*")) == before


def test_source_that_does_not_exist_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*nothing\.tar\.gz: No such file"):
        cifar100.read_official(tmp_path / "nothing.tar.gz")
    with pytest.raises(UserError, match="is not the cifar-100-python folder"):
        cifar100.read_official(tmp_path)


def test_folder_is_read_without_jax_tfds_and_tensorflow(folder: pathlib.Path) -> None:
    script = f"""
import pathlib, sys
for name in ("jax", "tensorflow_datasets", "tensorflow", "sklearn"):
    sys.modules[name] = None  # importing it fails
from bsce_jax import data
from bsce_jax.data import cifar100
cifar100.MD5.update({cifar100.MD5!r})
print(len(data.load("cifar100", {str(folder.parent)!r}).train.labels))
print(len(data.load("digits", "nowhere").train.labels))
"""
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["12", "1442"]


def test_prepared_data_without_tfds_says_what_is_missing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / cifar100.PREPARED).mkdir(parents=True)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    monkeypatch.delitem(sys.modules, "bsce_jax.data.cifar100_builder", raising=False)
    monkeypatch.delattr(data, "cifar100_builder", raising=False)
    with pytest.raises(UserError, match="needs tensorflow-datasets"):
        data.load("cifar100", tmp_path)
