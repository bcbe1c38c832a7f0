"""Preparing ImageNet and its subsets: from archives and folders, in one go or in several."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest
import tensorflow_datasets as tfds
import tiny_imagenet
from array_record.python import array_record_module
from PIL import Image
from tiny_imagenet import CLASSES, jpeg

from bsce_jax import data
from bsce_jax.data import imagenet_builder, imagenet_files, imagenet_shards, prepared
from bsce_jax.errors import UserError
from bsce_jax.prepare import main

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture
def source(tmp_path: pathlib.Path) -> pathlib.Path:
    return tiny_imagenet.write_folders(tmp_path / "source", tiny_imagenet.images())


@pytest.fixture
def data_dir(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "my data"


def run(
    source: pathlib.Path, data_dir: pathlib.Path, *more: object, name: str = "imagenet"
) -> None:
    main([name, "--source", str(source), "--data_dir", str(data_dir), *map(str, more)])


def files(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def assert_same_images(a: data.Dataset, b: data.Dataset) -> None:
    """Apart from the identities, which are of the files."""
    assert a.class_names == b.class_names
    for x, y in ((a.train, b.train), (a.test, b.test)):
        np.testing.assert_array_equal(x.labels, y.labels)
        np.testing.assert_array_equal(data.all_images(x), data.all_images(y))


# --- what is prepared


@pytest.mark.parametrize("layout", ["folder", "devkit", "list"])
def test_prepared_data_equals_the_folders(
    source: pathlib.Path,
    data_dir: pathlib.Path,
    tmp_path: pathlib.Path,
    capfd: pytest.CaptureFixture[str],
    layout: str,
) -> None:
    """Whatever the order in the archives: by class, and by file name."""
    given = source
    if layout != "folder":
        images = tiny_imagenet.images()
        given = tiny_imagenet.write_archives(tmp_path / "tars", images, layout == "devkit")
    run(given, data_dir)
    loaded = data.load("imagenet", data_dir, 16)
    assert loaded.name == "imagenet"
    assert_same_images(loaded, data.load("image_folder", source, 16))
    assert loaded.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert [path.name for path in data_dir.iterdir()] == ["imagenet"]
    output = capfd.readouterr()
    assert output.err == ""
    lines = output.out.splitlines()
    assert lines[:2] == [
        f"imagenet is prepared, in {data_dir / 'imagenet' / '1.0.0'}",
        "3 classes, 12 training and 6 test images",
    ]
    assert re.fullmatch(r"[\d.]+ MB", lines[2])
    assert lines[3:] == ["ImageNet has 1,281,167 training and 50,000 test images"]


def test_the_files_are_stored_as_they_are(source: pathlib.Path, data_dir: pathlib.Path) -> None:
    run(source, data_dir)
    builder = prepared.open_builder(data_dir / "imagenet" / "1.0.0")
    skip = {"image": tfds.decode.SkipDecoding()}
    records = list(builder.as_data_source("validation", decoders=skip))
    stored = {f"val/{CLASSES[r['label']]}/{r['file_name'].decode()}": r["image"] for r in records}
    assert stored == {n: c for n, c in tiny_imagenet.images().items() if n.startswith("val/")}
    # as tensorflow-datasets decodes them, who knows nothing of us
    decoded = builder.as_data_source("validation")[0]["image"]
    assert decoded.shape == (30, 40, 3)


def test_squares_are_resized_once(
    source: pathlib.Path, data_dir: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(source, data_dir, "--size", 20, name="imagenet_subset")
    assert "20x20 pixels" in capsys.readouterr().out
    small = data.load("imagenet_subset", data_dir, 20)
    expected = data.load("image_folder", source, 20)
    for record in (0, 5):
        found, original = (d.train.images([record])[0].astype(int) for d in (small, expected))
        assert 0 < np.abs(found - original).mean() < 5  # JPEG loses something
    # test images are the whole square too
    with Image.open(source / "val" / CLASSES[0] / "ILSVRC2012_val_00000001.JPEG") as image:
        square = np.asarray(image.crop((5, 0, 35, 30)).resize((20, 20), Image.Resampling.BILINEAR))
    assert np.abs(small.test.images([0])[0].astype(int) - square).mean() < 5
    for size, fit in ((20, "whole_square"), (10, "central_crop")):  # how a photo is fitted
        test = data.load("imagenet_subset", data_dir, size).test
        assert isinstance(test, data.FittedSource)
        assert test.fit == fit


def test_a_set_that_is_there_is_left_alone(
    source: pathlib.Path, data_dir: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(source, data_dir, "--size", 8)
    before = files(data_dir)
    main(["imagenet", "--source", "not looked at", "--data_dir", str(data_dir)])
    assert "is prepared already" in capsys.readouterr().out
    with pytest.raises(
        UserError, match=r"size is 9, and a set with 8x8 pixels is prepared already"
    ):
        run(source, data_dir, "--size", 9)
    assert files(data_dir) == before


def test_a_folder_is_read_where_nothing_is_prepared(
    source: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    expected = data.load("image_folder", source, 8)
    assert_same_images(data.load("imagenet", source, 8), expected)
    source.rename(tmp_path / "imagenet")
    assert data.load("imagenet", tmp_path, 8).identity == expected.identity
    run(tmp_path / "imagenet", tmp_path, "--size", 8)  # into the folder of the images itself
    loaded = data.load("imagenet", tmp_path, 8)
    assert loaded.identity != expected.identity
    with pytest.raises(
        UserError, match=r"no imagenet in .*: put it there as imagenet, .*prepare it"
    ):
        data.load("imagenet", tmp_path / "train", 8)


def test_real_subset(imagenet_subset_folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Three of the real classes."""
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        for name in sorted(os.listdir(imagenet_subset_folder / "train"))[:3]:
            (tmp_path / split / name).symlink_to(imagenet_subset_folder / split / name)
    with mock.patch.object(imagenet_shards, "SHARD", 100):
        run(tmp_path, tmp_path, name="imagenet_subset")
    loaded = data.load("imagenet_subset", tmp_path, 84)
    assert_same_images(loaded, data.load("image_folder", tmp_path, 84))
    assert len(loaded.train.labels) > 300


# --- classes of a subset


def test_classes_of_the_seed_1993() -> None:
    """As `numpy.random.seed(1993); numpy.random.choice(classes, 100, replace=False)`."""
    names = [f"n{i:08}" for i in range(1000)]
    chosen = imagenet_files.choose_classes(names, "1993")
    random = np.random.RandomState(1993).choice(names, 100, replace=False)
    assert random[:3].tolist() == ["n00000054", "n00000007", "n00000894"]
    assert chosen == sorted(random)
    with pytest.raises(UserError, match=r"--classes 1993 chooses among 1000 .* has 3"):
        imagenet_files.choose_classes(CLASSES, "1993")


def test_classes_of_a_file(
    source: pathlib.Path, data_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    listed = tmp_path / "classes.txt"
    listed.write_text(f"{CLASSES[2]}\n\n{CLASSES[0]}\n")
    run(source, data_dir, "--classes", listed, name="imagenet_subset")
    loaded = data.load("imagenet_subset", data_dir, 8)
    assert loaded.class_names == (CLASSES[0], CLASSES[2])
    whole = data.load("image_folder", source, 8)
    np.testing.assert_array_equal(
        data.all_images(loaded.train), whole.train.images([0, 1, 2, 3, 8, 9, 10, 11])
    )

    run(source, data_dir, "--classes", listed, name="imagenet_subset")  # it is there
    listed.write_text(f"{CLASSES[0]}\n")
    for other in (listed, 1993):
        with pytest.raises(UserError, match=r"a set with other --classes is prepared already, in"):
            run(source, data_dir, "--classes", other, name="imagenet_subset")


def test_all_classes_are_no_subset(source: pathlib.Path, data_dir: pathlib.Path) -> None:
    with (
        mock.patch.object(imagenet_files, "CLASSES", 3),
        pytest.raises(UserError, match=r"has 3 classes: choose those of the subset with --classes"),
    ):
        run(source, data_dir, name="imagenet_subset")


@pytest.mark.parametrize("labels", [(0, 1), (1, 0)])
def test_a_list_of_files_keeps_its_labels(tmp_path: pathlib.Path, labels: tuple[int, int]) -> None:
    """The format of PODNet's train_100.txt."""
    listed = tmp_path / "train_100.txt"
    lines = [f"train/{CLASSES[c]}/{i}.JPEG {labels[c]}" for c in (0, 1) for i in range(3)]
    listed.write_text("\n".join(lines))
    expected = sorted(CLASSES[:2], key=lambda name: labels[CLASSES.index(name)])
    assert imagenet_files.choose_classes(CLASSES, str(listed)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n1\n", "line 1: no class n1 in the source"),
        (f"{CLASSES[0]}\nx y z\n", "line 2: give a class, or CLASS/FILE and its label"),
        (f"{CLASSES[0]} x\n", "line 1: give a class, or CLASS/FILE and its label"),
        (f"a/{CLASSES[0]}/1 0\na/{CLASSES[0]}/2 1\n", "line 2: class .* had label 0 before"),
        (f"{CLASSES[0]} 0\n{CLASSES[1]} 2\n", "labels of .* must be 0 to 1, one for each class"),
        (f"{CLASSES[0]} 1\n{CLASSES[1]} 1\n", "labels of .* must be 0 to 1, one for each class"),
        ("\n", "has no classes"),
    ],
)
def test_invalid_lists_are_refused(tmp_path: pathlib.Path, text: str, message: str) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text(text)
    with pytest.raises(UserError, match=message):
        imagenet_files.choose_classes(CLASSES, str(listed))
    with pytest.raises(UserError, match=r"cannot read --classes .*: No such file.*, or 1993"):
        imagenet_files.choose_classes(CLASSES, str(tmp_path / "none"))


# --- unreadable and unusual images


def test_unusual_images_are_reported(
    source: pathlib.Path, data_dir: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (source / "train" / CLASSES[0] / "a.JPEG").write_bytes(jpeg(1, mode="CMYK"))
    Image.new("RGB", (9, 9)).save(source / "train" / CLASSES[1] / "b.JPEG", "PNG")
    run(source, data_dir)
    lines = capsys.readouterr().out.splitlines()
    assert "1 CMYK: a.JPEG" in lines
    assert "1 not JPEG: b.JPEG" in lines
    assert_same_images(data.load("imagenet", data_dir, 8), data.load("image_folder", source, 8))


@pytest.mark.parametrize("size", [(), ("--size", 8)])
def test_unreadable_images_stop_it_unless_they_are_allowed(
    source: pathlib.Path,
    data_dir: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    size: tuple[object, ...],
) -> None:
    good = tiny_imagenet.images()
    for name in (
        f"train/{CLASSES[1]}/{CLASSES[1]}_2.JPEG",
        f"val/{CLASSES[0]}/ILSVRC2012_val_00000001.JPEG",
    ):
        (source / name).write_bytes(good[name][:-100])
    for limit in ((), ("--max_unreadable", 1)):
        with pytest.raises(UserError) as error:
            run(source, data_dir, *limit, *size)
        which = "val_00000001" if limit else f"{CLASSES[1]}_2"
        assert re.match(rf"cannot read \S+{which}\.JPEG as an image: .*--max_unr", str(error.value))
        assert not (data_dir / "imagenet").exists()
    run(source, data_dir, "--max_unreadable", 2, *size)
    assert f"2 unreadable, left out: {CLASSES[1]}_2.JPEG, ILSVRC2012_val_00000001.JPEG" in (
        capsys.readouterr().out
    )
    loaded = data.load("imagenet", data_dir, 8)
    assert loaded.train.labels.tolist() == [0] * 4 + [1] * 3 + [2] * 4
    if not size:
        whole = data.load("image_folder", source, 8)
        rest = [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11]
        np.testing.assert_array_equal(data.all_images(loaded.train), whole.train.images(rest))


# --- interruptions


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagenet_shards, "SHARD", 3)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("where", ["shard", "note", "finish", "rename"])
def test_interrupted_and_called_again_is_the_same_as_at_once(
    source: pathlib.Path, data_dir: pathlib.Path, tmp_path: pathlib.Path, where: str
) -> None:
    """Nothing that was complete is written again, and nothing half-done is used."""
    run(source, tmp_path / "at once")
    calls = {
        "shard": (imagenet_shards, "sha256", 3),  # after a shard, and before its note
        "note": (imagenet_shards, "write_json", 3),
        "finish": (imagenet_builder, "write_atomically", 0),
        "rename": (os, "replace", 6),  # the notes are renamed too
    }
    module, name, count = calls[where]
    real = getattr(module, name)
    left = [count]

    def stop(*arguments: object) -> object:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return real(*arguments)

    with mock.patch.object(module, name, stop), pytest.raises(KeyboardInterrupt):
        run(source, data_dir)
    assert [path.name for path in data_dir.iterdir()] == [".incomplete-imagenet"]
    with pytest.raises(UserError, match="no imagenet in"):
        data.load("imagenet", data_dir, 8)
    written: Any = []
    write = imagenet_shards._write_shard
    with mock.patch.object(
        imagenet_shards, "_write_shard", lambda *a: written.append(a[1].file) or write(*a)
    ):
        run(source, data_dir)
    assert len(written) == (3 if where in ("shard", "note") else 0)
    assert files(data_dir) == files(tmp_path / "at once")


@pytest.mark.usefixtures("small_shards")
def test_shards_of_other_images_are_not_used(
    source: pathlib.Path, data_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    staging = data_dir / ".incomplete-imagenet"
    with (
        mock.patch.object(imagenet_builder, "_finish", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        run(source, data_dir)
    shard = next(staging.glob("*-train.array_record-00001*4"))
    shard.write_bytes(shard.read_bytes()[:-1])
    (staging / "left over").touch()
    (source / "train" / CLASSES[0] / f"{CLASSES[0]}_0.JPEG").write_bytes(jpeg(77, (50, 50)))
    run(source, data_dir)
    run(source, tmp_path / "at once")
    assert files(data_dir) == files(tmp_path / "at once")


def test_killed_and_called_again(
    source: pathlib.Path, data_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """SIGKILL, while another process may not prepare in the same folder."""
    script = f"""
import sys, time
from bsce_jax import prepare
from bsce_jax.data import imagenet_shards
imagenet_shards.SHARD = 3
write = imagenet_shards.write_json
def slowly(file, note):
    write(file, note)
    print(file.name, flush=True)
    time.sleep(60 if "00002" in file.name else 0)
imagenet_shards.write_json = slowly
prepare.main(["imagenet", "--source", {str(source)!r}, "--data_dir", {str(data_dir)!r}])
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for _ in range(3):
        process.stdout.readline()
    with pytest.raises(UserError, match="another process is preparing a data set in"):
        run(source, data_dir)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with mock.patch.object(imagenet_shards, "SHARD", 3):
        run(source, data_dir)
        run(source, tmp_path / "at once")
    assert files(data_dir) == files(tmp_path / "at once")


def test_a_full_disk_is_said(source: pathlib.Path, data_dir: pathlib.Path) -> None:
    full = RuntimeError("No space left on device")  # as array_record says it
    with (
        mock.patch.object(array_record_module, "ArrayRecordWriter", side_effect=full),
        pytest.raises(UserError, match=r"no space left in .*my data: free some and give the same"),
    ):
        run(source, data_dir)


# --- verifying


def test_verify(
    source: pathlib.Path, data_dir: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(source, data_dir)
    folder = data_dir / "imagenet" / "1.0.0"
    capsys.readouterr()
    main(["imagenet", "--data_dir", str(data_dir), "--verify"])
    assert capsys.readouterr().out == f"6 files of {folder} have their SHA-256\n"
    if sums := shutil.which("sha256sum"):  # which knows nothing of us
        subprocess.run([sums, "-c", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    file = next(folder.glob("*-train.array_record*"))
    content = bytearray(file.read_bytes())
    content[200] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"array_record-00000-of-00001 is damaged: its SHA-256 is"):
        main(["imagenet", "--data_dir", str(data_dir), "--verify"])
    with pytest.raises(UserError, match=r"record 0 of train in .* is damaged: .*hash mismatch"):
        data.load("imagenet", data_dir, 8).train.images([0])
    file.unlink()
    with pytest.raises(UserError, match=r"cannot verify .*No such file"):
        main(["imagenet", "--data_dir", str(data_dir), "--verify"])


def test_other_data_has_another_identity(source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Of the same sizes: the checksums are part of it. Where it lies is not."""
    for name in ("a", "b"):
        run(source, tmp_path / name)
    identity = lambda name, size=8: data.load("imagenet", tmp_path / name, size).identity
    assert identity("a") == identity("b") != identity("a", 9)
    file = source / "train" / CLASSES[0] / f"{CLASSES[0]}_0.JPEG"
    content = bytearray(file.read_bytes())
    content[-20] ^= 1  # of the pixels
    file.write_bytes(content)
    run(source, tmp_path / "c")
    assert identity("c") != identity("a")


# --- what is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["imagenet"], "--source is missing"),
        (["imagenet", "--source", "none"], "no ImageNet in none: it should hold ILSVRC2012_img_tr"),
        (["imagenet", "--source", ".", "--size", "0"], "--size is 0: it must be 1 to 10,000"),
        (["imagenet", "--source", ".", "--classes", "1993"], "--classes is for imagenet_subset"),
        (["cifar100", "--size", "8"], "--size is for imagenet and imagenet_subset, not cifar100"),
        (["digits", "--verify"], "--verify is for imagenet and imagenet_subset, not digits"),
        (["imagenet", "--verify"], r"cannot verify .*imagenet/1\.0\.0: .*No such file"),
        (["imagenet", "--size", "big"], "invalid int value"),
    ],
)
def test_invalid_arguments_are_refused(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        main(arguments)
    assert list(tmp_path.iterdir()) == []


def cut_train(folder: pathlib.Path) -> None:
    archive = folder / "ILSVRC2012_img_train.tar"
    archive.write_bytes(archive.read_bytes()[:2100])


def no_tar(folder: pathlib.Path) -> None:
    (folder / "ILSVRC2012_img_val.tar").write_bytes(b"text" + bytes(2000))


def no_val(folder: pathlib.Path) -> None:
    (folder / "ILSVRC2012_img_val.tar").unlink()


def no_labels(folder: pathlib.Path) -> None:
    (folder / "val.txt").unlink()


def other_labels(folder: pathlib.Path) -> None:
    (folder / "val.txt").write_text("ILSVRC2012_val_00000001.JPEG n9\n")


def number_too_large(folder: pathlib.Path) -> None:
    (folder / "val.txt").write_text("ILSVRC2012_val_00000001.JPEG 3\n")


def few_labels(folder: pathlib.Path) -> None:
    (folder / "val.txt").write_text("ILSVRC2012_val_00000001.JPEG 0\n")


def one_class(folder: pathlib.Path) -> None:
    names = (f"ILSVRC2012_val_{i:08}.JPEG 0\n" for i in range(1, 7))
    (folder / "val.txt").write_text("".join(names))


def damaged_devkit(folder: pathlib.Path) -> None:
    (folder / "val.txt").unlink()
    (folder / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(b"not it")


def empty_devkit(folder: pathlib.Path) -> None:
    (folder / "val.txt").unlink()
    with tarfile.open(folder / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as tar:
        tiny_imagenet.add(tar, "data/meta.mat", b"not it")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_train, r"img_train\.tar is damaged: it is cut off"),
        (no_tar, r"img_val\.tar is damaged: .*; get it again"),
        (no_val, r"no ILSVRC2012_img_val\.tar in .*: it belongs beside"),
        (no_labels, r"no classes of the test images in .*: put ILSVRC2012_devkit_t12\.tar\.gz"),
        (other_labels, r"val\.txt, line 1: 'ILSVRC2012_val_00000001.JPEG n9' is not `FILE CLASS`"),
        (number_too_large, r"val\.txt, line 1: .* one of the 3 classes or its number from 0"),
        (few_labels, r"no class of ILSVRC2012_val_00000002\.JPEG"),
        (one_class, f"no validation images of class {CLASSES[1]}"),
        (damaged_devkit, r"devkit_t12\.tar\.gz is damaged: "),
        (empty_devkit, r"devkit_t12\.tar\.gz is damaged or not ILSVRC2012_devkit_t12"),
    ],
)
def test_damaged_archives_are_refused(
    tmp_path: pathlib.Path,
    data_dir: pathlib.Path,
    damage: Callable[[pathlib.Path], None],
    message: str,
) -> None:
    folder = tiny_imagenet.write_archives(tmp_path / "tars", tiny_imagenet.images(), False)
    damage(folder)
    with pytest.raises(UserError, match=message) as error:
        run(folder, data_dir)
    assert "\n" not in str(error.value)
    assert not data_dir.exists()


def test_a_numbered_list_is_of_sorted_classes(tmp_path: pathlib.Path) -> None:
    """As Caffe's val.txt."""
    folder = tiny_imagenet.write_archives(tmp_path / "tars", tiny_imagenet.images(), False)
    text = (folder / "val.txt").read_text()
    expected = imagenet_files.find(folder)
    for number, name in enumerate(CLASSES):
        text = text.replace(name, str(number))
    (folder / "val.txt").write_text(text)
    assert imagenet_files.find(folder) == expected


def test_metadata_says_how_it_was_made(source: pathlib.Path, data_dir: pathlib.Path) -> None:
    run(source, data_dir, "--size", 8)
    file = data_dir / "imagenet" / "1.0.0" / "metadata.json"
    assert json.loads(file.read_text()) == {
        "size": 8,
        "quality": 90,
        "classes": "all",
        "unreadable": [],
    }
