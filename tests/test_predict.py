"""`python -m bsce_jax.predict`: photos get the numbers that the run's test images would."""

import csv
import io
import json
import pathlib
import shutil
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_run import make_config, some_digits

from bsce_jax import data
from bsce_jax.data import photos
from bsce_jax.errors import UserError
from bsce_jax.predict import main
from bsce_jax.runs.saved import SavedRun
from bsce_jax.training.loop import run

DIGITS = some_digits(12, 6)
ORDER = (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("digits")
    fields = {"scenario.class_order": ",".join(map(str, ORDER))}
    run(make_config("replay", None, fields), folder, DIGITS)
    return folder


@pytest.fixture(scope="module")
def digit_files(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The test images as files, in a folder for each class: CLASS/RECORD.png."""
    folder = tmp_path_factory.mktemp("files")
    for record, (label, image) in enumerate(
        zip(DIGITS.test.labels, data.all_images(DIGITS.test), strict=True)
    ):
        (folder / str(label)).mkdir(exist_ok=True)
        Image.fromarray(image[..., 0]).save(folder / str(label) / f"{record:02}.png")
    return folder


@pytest.fixture
def colour_folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """Images in folders, of three classes and many sizes."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for name in ("ant", "bee", "cat"):
            folder = tmp_path / "set" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (*rng.integers(9, 40, 2), 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "set"


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What the command prints on stdout."""
    main([str(argument) for argument in arguments])
    return capsys.readouterr().out


def probabilities(saved: SavedRun, images: np.ndarray) -> np.ndarray:
    scores = saved.predict(images).astype(np.float64)
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def test_stored_images_get_their_probabilities_from_a_file(
    digits_run: pathlib.Path, digit_files: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = said(capsys, "--workdir", digits_run, digit_files, "--format", "json", "--top", 3)
    found = json.loads(text)
    assert (found["task"], found["by"], found["unreadable"]) == (1, "cnn", [])
    names = [pathlib.Path(one["file"]).relative_to(digit_files) for one in found["predictions"]]
    assert names == sorted(names)
    assert len(names) == len(DIGITS.test.labels)
    saved = SavedRun.open(digits_run)
    expected = probabilities(saved, data.all_images(DIGITS.test))
    for name, one in zip(names, found["predictions"], strict=True):
        row = expected[int(name.stem)]
        best = np.argsort(-row)[:3]
        assert [top["class"] for top in one["top"]] == [str(ORDER[i]) for i in best]
        np.testing.assert_allclose([t["probability"] for t in one["top"]], row[best], rtol=1e-5)


def test_photos_are_prepared_as_the_test_images_in_folders_were(
    colour_folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = data.load("image_folder", colour_folder, 8)
    fields = {"scenario.base": 2, "scenario.increment": 1, "train.epochs": 1}
    run(make_config("replay", None, fields), tmp_path / "run", dataset)
    saved = SavedRun.open(tmp_path / "run")
    assert saved.fit == "central_crop"
    files = photos.find([colour_folder / "val"])
    images, errors = photos.read(files, saved.image_shape, saved.fit)
    np.testing.assert_array_equal(images, data.all_images(dataset.test))
    assert errors == [None] * 6

    shutil.rmtree(colour_folder / "train")  # only the run's folder is needed
    text = said(capsys, "--workdir", tmp_path / "run", files[3], "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    row = probabilities(saved, images[3:4])[0]
    assert [each["class"] for each in rows] == [saved.class_names[i] for i in np.argsort(-row)]
    assert [each["rank"] for each in rows] == ["1", "2", "3"]  # all classes: fewer than five
    shown = [float(each["probability"]) for each in rows]
    np.testing.assert_allclose(shown, -np.sort(-row), rtol=1e-5)


@pytest.mark.parametrize(("shape", "size"), [((8, 8, 1), (32, 16)), ((4, 8, 3), (20, 30))])
def test_photos_for_images_of_fixed_size_are_the_middle_resized(
    tmp_path: pathlib.Path, shape: tuple[int, int, int], size: tuple[int, int]
) -> None:
    """The largest part of the right shape is red, and what is left out is blue."""
    width, height = size
    scale = min(width / shape[1], height / shape[0])
    w, h = round(shape[1] * scale), round(shape[0] * scale)
    picture = Image.new("RGB", size, (0, 0, 255))
    picture.paste(
        (200, 0, 0), ((width - w) // 2, (height - h) // 2, (width + w) // 2, (height + h) // 2)
    )
    picture.save(tmp_path / "a.png")
    images, _ = photos.read([tmp_path / "a.png"], shape, "whole_square")
    # 0.299 of red is grey
    expected = np.array([200, 0, 0] if shape[2] == 3 else [60])
    inside = images[:, 1:-1, 1:-1]
    np.testing.assert_array_equal(inside, np.broadcast_to(expected, inside.shape))
    # the filter reaches half a pixel over the edge
    np.testing.assert_allclose(images, np.broadcast_to(expected, images.shape), atol=40)


def test_photos_for_images_of_fixed_size_keep_their_edges(tmp_path: pathlib.Path) -> None:
    ramp = np.broadcast_to(np.arange(0, 128, 4, dtype=np.uint8), (32, 32))
    Image.fromarray(ramp).save(tmp_path / "a.png")
    images, _ = photos.read([tmp_path / "a.png"], (8, 8, 1), "whole_square")
    # four pixels become one, with the value of their middle
    inside = np.broadcast_to(6 + 16 * np.arange(1, 7), (1, 8, 6))
    np.testing.assert_array_equal(images[:, :, 1:-1, 0], inside)


def test_images_are_found_below_folders_and_by_contents_where_they_are_named(
    digit_files: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    image = next(digit_files.glob("3/*.png"))
    for name in ("b/c/1.PNG", "b/0.jpg", "a.gif", ".hidden/x.png", "b/.y.png", "b/notes.txt", "z"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, tmp_path / name)
    found = photos.find([tmp_path / "z", tmp_path, tmp_path / "b"])
    names = [str(file.relative_to(tmp_path)) for file in found]
    assert names == ["z", "a.gif", "b/0.jpg", "b/c/1.PNG"]
    images, errors = photos.read(found, (8, 8, 1), "whole_square")
    assert errors == [None] * 4
    assert (images == np.asarray(Image.open(image))[None, ..., None]).all()


def test_a_table_has_a_line_for_each_photo(
    digits_run: pathlib.Path, digit_files: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header, line = said(
        capsys, "--workdir", digits_run, digit_files / "3" / "18.png", "--top", 2
    ).splitlines()
    assert header.split() == ["file", "1", "2"]
    assert line.startswith(str(digit_files))
    row = np.sort(probabilities(SavedRun.open(digits_run), DIGITS.test.images([18])))[0]
    assert [float(word) for word in line.split()[2::3]] == [
        pytest.approx(100 * row[-rank], abs=0.051) for rank in (1, 2)
    ]


def test_nearest_class_means_give_cosines(
    digits_run: pathlib.Path,
    digit_files: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = digit_files / "0" / "00.png"
    text = said(capsys, "--workdir", digits_run, file, "--by", "nme", "--format", "json")
    [one] = json.loads(text)["predictions"]
    row = SavedRun.open(digits_run).predict(DIGITS.test.images([0]), by="nme")[0]
    np.testing.assert_allclose([t["cosine"] for t in one["top"]], -np.sort(-row)[:5], rtol=1e-5)
    run(make_config("finetune", None, {"train.epochs": 1}), tmp_path / "run", some_digits(8, 2))
    with pytest.raises(UserError, match="the run kept no exemplars"):
        main(["--workdir", str(tmp_path / "run"), str(file), "--by", "nme"])


@pytest.fixture
def some_bad(digit_files: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """Two images and two files that are none."""
    folder = tmp_path / "photos"
    shutil.copytree(digit_files / "3", folder)
    for file in sorted(folder.iterdir())[2:]:
        file.unlink()
    (folder / "00.png").write_bytes(b"no image")
    (folder / "19a.png").write_bytes(b"")
    return folder


def test_the_first_unreadable_file_is_named_and_all_are_counted(
    digits_run: pathlib.Path, some_bad: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = r"cannot read \S*00.png as an image: .*; 2 of 4 files cannot be read: --skip_unread"
    with pytest.raises(UserError, match=message):
        main(["--workdir", str(digits_run), str(some_bad), "--out", str(some_bad / "out.csv")])
    assert capsys.readouterr().out == ""
    assert not (some_bad / "out.csv").exists()


def test_unreadable_files_are_left_out_and_listed_when_asked(
    digits_run: pathlib.Path, some_bad: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = some_bad / "new" / "out.json"
    arguments = ["--workdir", digits_run, some_bad, "--skip_unreadable"]
    main([*map(str, arguments), "--format", "json", "--out", str(out)])
    output = capsys.readouterr()
    assert output.out == ""
    first, *lines = output.err.splitlines()
    assert first == "2 of 4 files cannot be read, left out:"
    assert len(lines) == 2
    found = json.loads(out.read_text())
    assert [pathlib.Path(each["file"]).name for each in found["unreadable"]] == [
        "00.png",
        "19a.png",
    ]
    assert [pathlib.Path(p["file"]).name for p in found["predictions"]] == ["18.png", "19.png"]
    expected = probabilities(SavedRun.open(digits_run), DIGITS.test.images([18, 19])).max(axis=1)
    got = [each["top"][0]["probability"] for each in found["predictions"]]
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    for name in ("18.png", "19.png"):
        (some_bad / name).unlink()
    with pytest.raises(UserError, match=r"2 of 2 files cannot be read$"):
        main(list(map(str, arguments)))


@pytest.fixture
def labelled(digit_files: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """Six images of one class, three of another, none of the others, and two foreign folders."""
    folder = tmp_path / "labelled"
    for name in ("3", "7", "dogs", "eels"):
        shutil.copytree(digit_files / (name if name.isdecimal() else "1"), folder / name)
    for file in sorted((folder / "7").iterdir())[3:]:
        file.unlink()
    return folder


def test_evaluation_counts_what_is_taken_for_what(
    digits_run: pathlib.Path, labelled: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--workdir", str(digits_run), "--evaluate", str(labelled), "--format"]
    main([*arguments, "json"])
    output = capsys.readouterr()
    found = json.loads(output.out)
    assert f"no classes of {digits_run}, left out: dogs, eels\n" in output.err
    assert found["left_out"] == ["dogs", "eels"]

    records = np.concatenate(
        [np.flatnonzero(DIGITS.test.labels == 3), np.flatnonzero(DIGITS.test.labels == 7)[:3]]
    )
    best = SavedRun.open(digits_run).predict(DIGITS.test.images(records)).argmax(axis=1)
    expected = np.zeros((10, 10), int)
    for position, record in zip(best, records, strict=True):
        expected[ORDER.index(DIGITS.test.labels[record]), position] += 1
    assert found["confusion"] == expected.tolist()
    hits = expected[0, 0], expected[9, 9]  # 3 comes first, 7 last
    assert found["images"] == 9
    assert found["accuracy"] == pytest.approx(100 * sum(hits) / 9)
    assert found["class_mean"] == pytest.approx(100 * (hits[0] / 6 + hits[1] / 3) / 2)
    assert found["classes"][0] == {"class": "3", "images": 6, "accuracy": 100 * hits[0] / 6}
    assert found["classes"][1] == {"class": "1", "images": 0, "accuracy": None}

    main([*arguments, "csv"])
    header, *rows = csv.reader(io.StringIO(capsys.readouterr().out))
    assert header[3:] == [f"predicted {label}" for label in ORDER]
    assert [[int(cell) for cell in row[3:]] for row in rows] == expected.tolist()
    assert [row[0] for row in rows] == [str(label) for label in ORDER]

    main([*arguments, "table"])
    summary, _, _, *lines = capsys.readouterr().out.splitlines()
    assert summary == output.err.splitlines()[-1]
    assert summary.startswith(f"9 images: accuracy {found['accuracy']:.2f} %, class-mean")
    assert [line.split()[:2] for line in lines] == [["3", "6"], ["7", "3"]]
    missed = sum(int(word.strip("(),")) for line in lines for word in line.split() if "(" in word)
    assert missed == 9 - sum(hits)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say which photos or folders, or --evaluate FOLDER"),
        (["x.png", "--evaluate", "."], "and not both"),
        (["x.png"], "no file or folder x.png"),
        (["empty"], "no images in empty: no .jpg"),
        (["--evaluate", "empty"], "no folder in empty has the name of a class"),
        (["--evaluate", "x"], "cannot use x: No such file"),
        (["empty", "--top", "0"], "--top is 0"),
        (["empty", "--by", "nmee"], "unknown by 'nmee'; did you mean nme"),
        (["empty", "--format", "jsn"], "unknown format 'jsn'; did you mean json"),
        (["empty", "--out", "empty"], "--out empty is a folder"),
        (["empty", "--out", "gs://b/p.csv"], "gs://b/p.csv is remote: give a local path"),
        (["empty", "--workdir", "empty"], "no model in empty"),
    ],
)
def test_bad_input_is_said_in_one_line(
    arguments: list[str],
    message: str,
    digits_run: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as caught:
        main(["--workdir", str(digits_run), *arguments])
    assert message in str(caught.value)
    assert list(tmp_path.rglob("*")) == [tmp_path / "empty"]


def test_runs_on_images_that_photos_cannot_be_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="4 channels: photos have 1 or 3"):
        photos.read([], (8, 8, 4), "whole_square")
    with pytest.raises(UserError, match="unknown way to fit images 'own'"):
        photos.read([], (8, 8, 3), "own")


def test_a_model_of_another_version_is_written_anew_by_training(
    digits_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folder = shutil.copytree(digits_run, tmp_path / "run")
    path = folder / "model" / "model.json"
    before: dict[str, Any] = json.loads(path.read_text())
    path.write_text(json.dumps({**before, "schema": 2}))
    with pytest.raises(UserError, match="of schema 3: the run's training command writes it anew"):
        main(["--workdir", str(folder), "x.png"])
    fields = {"scenario.class_order": ",".join(map(str, ORDER))}
    run(make_config("replay", None, fields), folder, DIGITS)
    assert json.loads(path.read_text()) == before
