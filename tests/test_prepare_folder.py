"""`python -m bsce_jax.prepare image_folder`: photos are listed, checked, and split once."""

import json
import os
import pathlib
import shutil
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bsce_jax import data
from bsce_jax.data import decode, folder_builder, listing
from bsce_jax.errors import UserError
from bsce_jax.prepare import main


def photo(file: pathlib.Path, red: int = 0, size: tuple[int, int] = (6, 6)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (red, 0, 0)).save(file)


def add(folder: pathlib.Path, **counts: int) -> None:
    """Add so many photos to each class."""
    for name, count in counts.items():
        start = len(list(folder.glob(f"{name}/*")))
        for i in range(start, start + count):
            photo(folder / name / f"{name} {i:03}.png", i)


@pytest.fixture
def photos(tmp_path: pathlib.Path) -> pathlib.Path:
    """Three classes of 10, 5 and 1 photos."""
    add(tmp_path / "photos", cat=10, dog=5, owl=1)
    return tmp_path / "photos"


@pytest.fixture
def data_dir(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "my data" / "mine"


def run(source: pathlib.Path, data_dir: pathlib.Path, *options: str) -> None:
    main(["image_folder", "--source", str(source), "--data_dir", str(data_dir), *options])


def files(data_dir: pathlib.Path) -> tuple[set[str], set[str]]:
    """The training and the test photos of a listing."""
    found = listing.read(data_dir)
    assert found is not None
    return {photo.file for photo in found.train}, {photo.file for photo in found.test}


def test_a_fifth_of_each_class_is_held_out(
    photos: pathlib.Path, data_dir: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo(photos / "cat" / "wide.png", size=(40, 20))
    (photos / "dog" / "1.HEIC").write_bytes(b"x")
    photo(photos / "loose.png")
    run(photos, data_dir)
    assert capsys.readouterr().out == (
        f"{photos} has a folder for each class and no test images: 20% of each class are held out\n"
        "3 classes, 14 training and 3 test images\n"
        "training images a class: 1 (owl) to 9 (cat), median 4\n"
        "shorter sides: 6 to 20 pixels, median 6\n"
        "classes without test images: owl\n"
        "left out, 1: .heic is not read\n"
        "left out, 1: image outside of the classes' folders and lists\n"
        f"each is named in {data_dir}/report.txt\n"
        f"listed in {data_dir}/images.json, which training reads:\n"
        f"  python -m bsce_jax.train '--config.dataset.data_dir={data_dir}' --workdir runs/mine "
        "--config image_folder:base=3\n"
    )
    assert sorted(os.listdir(data_dir)) == ["images.json", "report.txt"]
    report = (data_dir / "report.txt").read_text().splitlines()
    assert report[-2:] == [
        "dog/1.HEIC: .heic is not read",
        "loose.png: image outside of the classes' folders and lists",
    ]
    loaded = data.load("image_folder", data_dir, 4)
    assert loaded.class_names == ("cat", "dog", "owl")
    assert np.bincount(loaded.train.labels).tolist() == [9, 4, 1]
    assert np.bincount(loaded.test.labels).tolist() == [2, 1]
    reds = [set(data.all_images(s)[:, 0, 0, 0].tolist()) for s in (loaded.train, loaded.test)]
    assert reds[0] | reds[1] == set(range(10))


def test_folders_that_are_left_out_are_named(
    photos: pathlib.Path, data_dir: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder without images, and a link within a class. A class that is a link is read."""
    (photos / "empty").mkdir()
    elsewhere = photos.with_name("elsewhere")
    add(elsewhere, ant=3, more=2)
    (photos / "ant").symlink_to(elsewhere / "ant")
    (photos / "cat" / "more").symlink_to(elsewhere / "more")
    run(photos, data_dir)
    said = capsys.readouterr().out
    assert "4 classes, " in said
    assert "folders without images, no classes: empty\n" in said
    assert "left out, 1: a link to a folder is not followed\n" in said
    report = (data_dir / "report.txt").read_text()
    assert report.endswith("\ncat/more: a link to a folder is not followed\n")


@pytest.mark.parametrize("moved", [False, True])
def test_test_images_stay_test_images(
    photos: pathlib.Path, data_dir: pathlib.Path, moved: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    run(photos, data_dir)
    train, test = files(data_dir)
    add(photos, cat=20, dog=1, owl=4, ant=5)
    gone = min(train)
    (photos / gone).unlink()
    capsys.readouterr()
    if moved:
        photos = photos.rename(photos.with_name("elsewhere"))
        with pytest.raises(UserError, match=r"no folder .*photos, where the photos of .* were: "):
            data.load("image_folder", data_dir, 4)
    run(photos, data_dir)
    said = capsys.readouterr().out
    assert "since the last time: 30 images added, 1 removed; new classes: ant\n" in said
    assert said.endswith("--workdir runs/mine2 --extend runs/mine\n")
    later_train, later_test = files(data_dir)
    assert train - later_train == {gone}
    assert test <= later_test
    # a fifth of 29, 6, 5 and 5
    counts = [sum(f.startswith(name) for f in later_test) for name in ("cat", "dog", "owl", "ant")]
    assert counts == [6, 1, 1, 1]
    assert data.load("image_folder", data_dir, 4).class_names == ("ant", "cat", "dog", "owl")


def test_known_photos_are_not_read_again(photos: pathlib.Path, data_dir: pathlib.Path) -> None:
    run(photos, data_dir)
    before = (data_dir / "images.json").read_bytes()
    with mock.patch.object(folder_builder, "check", wraps=decode.check) as checked:
        run(photos, data_dir)
        assert not checked.called
        assert (data_dir / "images.json").read_bytes() == before
        photo(photos / "cat" / "cat 000.png", size=(200, 200))
        run(photos, data_dir)
    checked.assert_called_once_with(mock.ANY, photos / "cat" / "cat 000.png")


names = st.text("ab/", min_size=1, max_size=5)


@given(st.sets(names), st.sets(names), st.floats(0.01, 0.99), st.integers(0, 2**32 - 1))
def test_the_choice_grows(first: set[str], more: set[str], fraction: float, seed: int) -> None:
    test = listing.hold_out(first, fraction, seed, set(), set())
    assert test == listing.hold_out(sorted(first, reverse=True), fraction, seed, set(), set())
    n = len(first)
    assert len(test) == (0 if n < 2 else min(n - 1, max(1, round(fraction * n))))
    later = listing.hold_out(first | more, fraction, seed, test, first - test)
    assert later & first == test


def test_the_seed_and_the_fraction_choose(photos: pathlib.Path, tmp_path: pathlib.Path) -> None:
    tests = []
    for i, options in enumerate([[], ["--seed=1"], ["--test_fraction=0.5"]]):
        run(photos, tmp_path / str(i), *options)
        tests.append(files(tmp_path / str(i))[1])
    assert tests[0] != tests[1]
    assert tests[0] < tests[2]
    assert len(tests[2]) == 5 + 2
    run(photos, tmp_path / "1")  # as before, without saying it again
    assert files(tmp_path / "1")[1] == tests[1]
    with pytest.raises(
        UserError, match=r"--seed is 2, and test images of .*1 were held out with 1"
    ):
        run(photos, tmp_path / "1", "--seed=2")


def test_a_source_with_test_images_keeps_them(
    photos: pathlib.Path, data_dir: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = photos.parent / "split"
    shutil.copytree(photos, source / "train")
    shutil.copytree(photos, source / "Validation")
    os.rename(source / "Validation", source / "validation")
    run(source, data_dir)
    assert "split has train/CLASS/ and validation/CLASS/\n" in capsys.readouterr().out
    listed, direct = (data.load("image_folder", place, 4) for place in (data_dir, source))
    for split in ("train", "test"):
        one, other = getattr(listed, split), getattr(direct, split)
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(data.all_images(one), data.all_images(other))
    with pytest.raises(UserError, match=r"--test_fraction is 0\.5: .* has its own test images"):
        run(source, data_dir, "--test_fraction=0.5")


def test_the_listing_may_lie_with_the_photos(photos: pathlib.Path, tmp_path: pathlib.Path) -> None:
    run(photos, photos)
    train = data.load("image_folder", photos, 4).train
    moved = photos.rename(tmp_path / "moved")
    assert data.load("image_folder", moved, 4).train.identity == train.identity


def test_unreadable_files_are_listed_and_left_out_if_allowed(
    photos: pathlib.Path, data_dir: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = photos / "dog" / "bad.png"
    bad.write_bytes((photos / "dog" / "dog 000.png").read_bytes()[:45])
    (photos / "cat" / "empty.jpg").touch()
    (photos / "owl" / "lost.gif").symlink_to("nowhere")
    with pytest.raises(UserError) as error:
        run(photos, data_dir, "--max_unreadable=2")
    assert str(error.value).startswith(f"3 of 19 images cannot be read, such as {photos}/cat/empty")
    assert str(error.value).endswith(
        f"(it is empty); {data_dir}/report.txt names all: mend them, or leave them out with "
        "--max_unreadable 3"
    )
    report = (data_dir / "report.txt").read_text().splitlines()[1:]
    assert [line.partition(":")[0] for line in report] == [
        "cat/empty.jpg",
        "dog/bad.png",
        "owl/lost.gif",
    ]
    assert not (data_dir / "images.json").exists()
    run(photos, data_dir, "--max_unreadable=3")
    assert "left out, 3: cannot be read\n" in capsys.readouterr().out
    train, test = files(data_dir)
    assert len(train | test) == 16
    loaded = data.load("image_folder", data_dir, 4)
    assert [len(data.all_images(s)) for s in (loaded.train, loaded.test)] == [13, 3]


def test_a_class_without_readable_photos_is_refused(
    photos: pathlib.Path, data_dir: pathlib.Path
) -> None:
    (photos / "owl" / "owl 000.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="class owl has no training image that can be read"):
        run(photos, data_dir, "--max_unreadable=1")
    assert not (data_dir / "images.json").exists()


def test_missing_photos_are_named_with_the_command(
    photos: pathlib.Path, data_dir: pathlib.Path
) -> None:
    run(photos, data_dir)
    (photos / "cat" / "cat 000.png").unlink()
    with pytest.raises(UserError) as error:
        data.load("image_folder", data_dir, 4)
    assert str(error.value) == (
        f"cannot read {photos}/cat/cat 000.png: No such file or directory; if it is meant to be "
        f"so, `python -m bsce_jax.prepare image_folder --source {photos} --data_dir '{data_dir}'` "
        "leaves it out"
    )


def test_photos_of_another_set_are_refused(photos: pathlib.Path, data_dir: pathlib.Path) -> None:
    run(photos, data_dir)
    other = photos.parent / "other"
    add(other, bus=3, car=3)
    before = (data_dir / "images.json").read_bytes()
    with pytest.raises(UserError, match=r"other has none of the photos that .*images\.json lists"):
        run(other, data_dir)
    assert (data_dir / "images.json").read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"seed": "0"},
        {"class_names": ["cat"]},
        {"train": [["cat/1.png", 0, 1]]},
        {"test": [[1, 0, 1, 1, 1]]},
        {"more": 1},
    ],
)
def test_a_damaged_listing_is_refused(
    photos: pathlib.Path, data_dir: pathlib.Path, change: dict[str, object]
) -> None:
    run(photos, data_dir)
    path = data_dir / "images.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=r"images\.json is damaged: delete it, and make it again"):
        data.load("image_folder", data_dir, 4)


@pytest.mark.parametrize(
    "options",
    [["--test_fraction=1"], ["--test_fraction=0"], ["--seed=-1"], ["--max_unreadable=-1"]],
)
def test_wrong_options_are_refused(
    photos: pathlib.Path, data_dir: pathlib.Path, options: list[str]
) -> None:
    with pytest.raises(UserError, match=r"--(test_fraction|seed|max_unreadable) is .*: choose"):
        run(photos, data_dir, *options)
    assert not data_dir.exists()
