"""Images in folders: what is read, in which order, how it is resized, and what is refused."""

import os
import pathlib
import shutil
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
from numpy.typing import ArrayLike
from PIL import EpsImagePlugin, Image

from bsce_jax import data
from bsce_jax.data import decode, image_folder
from bsce_jax.errors import UserError

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def save(file: pathlib.Path, pixels: ArrayLike) -> None:
    """Writes an image, of uint8 [height, width, 3] or of what broadcasts to 6x6 of it."""
    pixels = np.asarray(pixels, np.uint8)
    if pixels.ndim == 1:
        pixels = np.broadcast_to(pixels, (6, 6, 3))
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """Two classes, whose images tell their place by their red value."""
    for value, name in enumerate(
        ["train/bee/2.png", "train/bee/b.PNG", "train/ant/x.png", "val/bee/1.png", "val/ant/1.png"]
    ):
        save(tmp_path / "set" / name, (value, 0, 0))
    return tmp_path / "set"


def reds(split: data.Source) -> list[int]:
    images = data.all_images(split)
    assert (images[..., 1:] == 0).all()
    assert (images == images[:, :1, :1]).all()
    return images[:, 0, 0, 0].tolist()


# --- what is read


def test_order_is_by_class_and_by_file_name(folder: pathlib.Path) -> None:
    loaded = data.load("image_folder", folder, 4)
    assert loaded.name == "image_folder"
    assert loaded.class_names == ("ant", "bee")
    assert loaded.image_shape == (4, 4, 3)
    assert reds(loaded.train) == [2, 0, 1]
    assert reds(loaded.test) == [4, 3]
    assert loaded.train.labels.tolist() == [0, 1, 1]
    assert loaded.test.labels.tolist() == [0, 1]
    for split in (loaded.train, loaded.test):
        assert split.images([0]).dtype == np.uint8
        assert split.labels.dtype == np.int32
    assert loaded.mean == (0.485, 0.456, 0.406)
    assert loaded.std == (0.229, 0.224, 0.225)


def test_many_files_keep_their_order(tmp_path: pathlib.Path) -> None:
    """More than one thread's share."""
    for i in range(200):
        save(tmp_path / "train" / "a" / f"{i:03}.png", (i, 0, 0))
    save(tmp_path / "val" / "a" / "0.png", RED)
    assert reds(image_folder.load(tmp_path, 1).train) == list(range(200))


def test_a_class_is_named_in_utf8_whatever_the_locale(folder: pathlib.Path) -> None:
    for split in ("train", "val"):
        for name in (b"caf\xc3\xa9", b"caf\xe9"):
            shutil.copytree(folder / split / "bee", folder / split / os.fsdecode(name))
    assert image_folder.load(folder, 1).class_names == ("ant", "bee", "café", "caf\\xe9")
    program = "import sys; from bsce_jax.data.image_folder import *; "
    program += "print(ascii(load(pathlib.Path(sys.argv[1]), 1).class_names))"
    c = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    words = [sys.executable, "-c", program, str(folder)]
    answer = subprocess.run(words, env={**os.environ, **c}, capture_output=True, check=True)
    assert answer.stdout == b"('ant', 'bee', 'caf\\xe9', 'caf\\\\xe9')\n"


def test_other_files_are_left_out(folder: pathlib.Path) -> None:
    save(folder / "train" / "ant" / ".hidden.png", RED)
    (folder / "train" / "ant" / "notes.txt").write_text("not an image")
    save(folder / "train" / "ant" / ".deeper" / "x.png", RED)
    save(folder / "train" / ".cache" / "x.png", RED)
    (folder / "val" / "README.md").write_text("not a class")
    loaded = image_folder.load(folder, 4)
    assert loaded.class_names == ("ant", "bee")
    assert reds(loaded.train) == [2, 0, 1]


def test_test_folder_is_read_where_there_is_no_val(folder: pathlib.Path) -> None:
    for name in ("ant", "bee"):
        save(folder / "test" / name / "1.png", (9, 0, 0))
    assert reds(image_folder.load(folder, 4).test) == [4, 3]
    os.rename(folder / "val", folder / "unused")
    assert reds(image_folder.load(folder, 4).test) == [9, 9]


def test_images_come_by_record(folder: pathlib.Path) -> None:
    train = image_folder.load(folder, 4).train
    assert train.images([2, 0, 2])[:, 0, 0, 0].tolist() == [1, 2, 1]
    assert train.images(np.array([1], np.int32))[:, 0, 0, 0].tolist() == [0]
    assert train.images([]).shape == (0, 4, 4, 3)


def test_only_images_asked_for_are_decoded(folder: pathlib.Path) -> None:
    with mock.patch.object(image_folder, "decode", wraps=decode.decode) as decoded:
        train = image_folder.load(folder, 4).train
        assert len(train.labels) == 3
        assert train.identity
        assert not decoded.called
        train.images([1])
    decoded.assert_called_once_with(mock.ANY, folder / "train" / "bee" / "2.png")


def test_identity_is_of_names_and_sizes(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    identity = lambda path, size=4: image_folder.load(path, size).identity
    first = identity(folder)
    shutil.copytree(folder, tmp_path / "copy")
    assert identity(tmp_path / "copy") == first  # wherever it lies
    assert identity(folder, 5) != first
    with mock.patch.object(image_folder, "RULES", 1):  # images decoded otherwise are others
        assert identity(folder) != first
    one = image_folder.load(folder, 4)
    assert one.train.identity != one.test.identity
    file = folder / "train" / "ant" / "x.png"
    content = file.read_bytes()
    file.write_bytes(content + b"more")
    assert identity(folder) != first
    file.write_bytes(content)
    assert identity(folder) == first
    file.rename(file.with_name("y.png"))
    assert identity(folder) != first


def test_every_kind_of_image_becomes_rgb(folder: pathlib.Path) -> None:
    ant = folder / "train" / "ant"
    Image.new("L", (6, 6), 50).save(ant / "a.png")
    Image.new("P", (6, 6), 0).save(ant / "b.png")  # of a palette that starts with black
    Image.new("RGBA", (6, 6), (10, 20, 30, 0)).save(ant / "c.png")
    Image.new("CMYK", (6, 6), (0, 0, 0, 0)).save(ant / "d.jpg")
    Image.new("RGB", (6, 6), (100, 150, 200)).save(ant / "e.JPEG", quality=95)
    Image.new("P", (6, 6), 0).save(ant / "f.gif")
    for name in ("g.bmp", "h.tif", "i.TIFF"):
        Image.new("RGB", (6, 6), (1, 2, 3)).save(ant / name)
    Image.new("RGB", (6, 6), (1, 2, 3)).save(ant / "j.webp", lossless=True)
    pixels = image_folder.load(folder, 4).train.images(range(10))[:, 0, 0].astype(int)
    expected = [[50] * 3, [0] * 3, [255] * 3, [255] * 3, [100, 150, 200]]
    np.testing.assert_array_equal(pixels[:3], expected[:3])
    np.testing.assert_array_equal(pixels[5:], [[0] * 3, *[[1, 2, 3]] * 4])
    np.testing.assert_allclose(pixels[3:5], expected[3:], atol=3)  # JPEG loses something


# --- resizing


@pytest.mark.parametrize("upright", [False, True])
def test_middle_is_cut_out_and_resized_with_a_triangle_filter(
    folder: pathlib.Path, upright: bool
) -> None:
    """Red, green and blue squares in a row, of which the green one is what is left.

    At half the size a filter reaches two pixels to each side: the outer columns take 1/8 of
    their light, the one pixel of the next square, from there.
    """
    stripes = np.repeat(np.array([[RED, GREEN, BLUE]], np.uint8), 4, axis=1).repeat(4, axis=0)
    axis = 1 if upright else 0
    save(folder / "train" / "ant" / "x.png", stripes.swapaxes(0, axis))
    whole = image_folder.load(folder, 4).train.images([0])[0]
    np.testing.assert_array_equal(whole, np.broadcast_to(GREEN, (4, 4, 3)))
    half = image_folder.load(folder, 2).train.images([0])[0].swapaxes(0, axis)
    left, right = (32, 223, 0), (0, 223, 32)  # 255 / 8 = 31.9
    np.testing.assert_allclose(half.astype(int), [[left, right]] * 2, atol=1)


def triangle_resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes as the definition says: each pixel is a weighted mean, the weights a triangle."""
    result = pixels.astype(float)
    for axis, size in enumerate((height, width)):
        scale = result.shape[axis] / size
        reach = max(scale, 1)  # antialiased: a pixel of the result hides many
        centres = (np.arange(size) + 0.5) * scale
        distance = np.abs(np.arange(result.shape[axis]) + 0.5 - centres[:, None])
        weights = np.clip(1 - distance / reach, 0, None)
        weights /= weights.sum(axis=1, keepdims=True)
        result = np.moveaxis(np.tensordot(weights, result, (1, axis)), 0, axis)
    return result


@pytest.mark.parametrize(
    ("shape", "size", "resized", "corner"),
    [
        ((40, 52), 28, (32, 41), (2, 6)),  # 41.6 is cut, 6.5 rounded to even
        ((53, 40), 28, (42, 32), (7, 2)),
        ((20, 20), 28, (32, 32), (2, 2)),
        ((28, 30), 28, (32, 34), (2, 3)),
        ((100, 64), 7, (12, 8), (2, 0)),  # 0.5 is rounded to even
    ],
)
def test_test_images_are_the_middle_of_larger_ones(
    folder: pathlib.Path,
    shape: tuple[int, int],
    size: int,
    resized: tuple[int, int],
    corner: tuple[int, int],
) -> None:
    """As Resize(256) and CenterCrop(224): 32 and 28 pixels here, numbers by hand."""
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    save(folder / "val" / "ant" / "1.png", pixels)
    found = image_folder.load(folder, size).test.images([0])[0]
    (height, width), (top, left) = resized, corner
    expected = triangle_resized(pixels, height, width)[top : top + size, left : left + size]
    np.testing.assert_allclose(found, expected, atol=1.01)  # Pillow rounds twice


def test_images_of_the_right_size_are_as_they_were(folder: pathlib.Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
    save(folder / "train" / "ant" / "x.png", pixels)
    save(folder / "val" / "ant" / "1.png", pixels)
    loaded = image_folder.load(folder, 6)
    for split in (loaded.train, loaded.test):
        np.testing.assert_array_equal(split.images([0])[0], pixels)


def test_small_images_are_made_larger(folder: pathlib.Path) -> None:
    assert reds(image_folder.load(folder, 17).train) == [2, 0, 1]


# --- what is refused


def refused(folder: pathlib.Path, size: int = 4) -> str:
    """Says why a folder is refused, before any file of it has been opened."""
    with mock.patch.object(image_folder, "decode"), pytest.raises(UserError) as error:
        data.load("image_folder", folder, size)
    return str(error.value)


def undecodable(folder: pathlib.Path) -> str:
    """Says why an image of a folder cannot be decoded."""
    loaded = data.load("image_folder", folder, 4)
    with pytest.raises(UserError) as error:
        [data.all_images(split) for split in (loaded.train, loaded.test)]
    return str(error.value)


def test_missing_folder_tells_the_layout(folder: pathlib.Path) -> None:
    os.rename(folder / "train", folder / "elsewhere")
    message = refused(folder)
    assert f"no folder {folder / 'train'}" in message
    assert "should hold train/CLASS/*.jpg and val/CLASS/*.jpg" in message


@pytest.mark.parametrize("inner", ["", "train"])
def test_without_test_images_the_command_is_told(folder: pathlib.Path, inner: str) -> None:
    shutil.rmtree(folder / "val")
    place = folder if inner else folder / "train"
    assert refused(place) == (
        f"{place} has 2 classes and no test images: hold some out with `python -m "
        f"bsce_jax.prepare image_folder --source {place} --data_dir {place}`"
    )


def test_images_without_classes_tell_the_layout(tmp_path: pathlib.Path) -> None:
    for split in ("train", "val"):
        save(tmp_path / split / "x.png", RED)
    assert refused(tmp_path).startswith(f"no classes in {tmp_path / 'train'}: ")


@pytest.mark.parametrize(("here", "there"), [("train", "val"), ("val", "train")])
def test_first_different_class_is_named(folder: pathlib.Path, here: str, there: str) -> None:
    save(folder / here / "cat" / "1.png", RED)
    save(folder / there / "dog" / "1.png", RED)
    assert refused(folder).startswith(
        f"class cat is in {folder / here} and not in {folder / there}"
    )


def test_class_without_images_is_named(folder: pathlib.Path) -> None:
    (folder / "val" / "ant" / "1.png").rename(folder / "val" / "ant" / "1.txt")
    assert refused(folder).startswith(f"no images in {folder / 'val' / 'ant'}: no .jpg, .jpeg, ")


@pytest.mark.parametrize("damage", ["text", "cut"])
def test_file_that_is_no_image_is_named(folder: pathlib.Path, damage: str) -> None:
    good = (folder / "train" / "bee" / "2.png").read_bytes()
    bad = folder / "val" / "bee" / "bad.png"
    bad.write_bytes({"text": b"not an image", "cut": good[:45]}[damage])
    assert undecodable(folder).startswith(f"cannot read {bad} as an image: ")


def test_empty_file_is_refused_at_once(folder: pathlib.Path) -> None:
    bad = folder / "val" / "bee" / "bad.png"
    bad.touch()
    assert refused(folder) == f"cannot read {bad} as an image: it is empty"


def test_file_that_went_away_is_named(folder: pathlib.Path) -> None:
    loaded = data.load("image_folder", folder, 4)
    file = folder / "train" / "bee" / "2.png"
    file.unlink()
    assert loaded.train.images([0, 2]).shape == (2, 4, 4, 3)  # of the others nothing is missed
    with pytest.raises(UserError, match=r"cannot read .*2\.png: No such file"):
        loaded.train.images([1])


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_deep_grey_is_refused(folder: pathlib.Path, kind: type[np.generic]) -> None:
    file = folder / "train" / "ant" / "deep.tiff"
    Image.fromarray(np.full((6, 6), 1000, kind)).save(file)
    expected = f"{file} has 16-bit or 32-bit grey values: convert it to 8 bits"
    assert undecodable(folder) == f"{expected} ({image_folder.LEAVE_OUT})"


def test_no_file_starts_a_program(
    folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow has Ghostscript draw an EPS, whatever its name: whoever is called gs."""
    trace = tmp_path / "trace"
    stub = tmp_path / "bin" / "gs"
    stub.parent.mkdir()
    stub.write_text(f"#!/bin/sh\ntouch {trace}\n")
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stub.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # look for it again
    file = folder / "train" / "ant" / "x.jpg"
    file.write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n%%EOF\n"
    )
    with Image.open(file) as image, pytest.raises(OSError, match="image file"):
        image.load()  # the stub draws nothing
    assert trace.exists()  # it would run
    trace.unlink()
    assert undecodable(folder).startswith(f"cannot read {file} as an image: it is no JPEG, PNG, ")
    assert not trace.exists()


def test_size_must_be_positive_and_given(folder: pathlib.Path) -> None:
    assert refused(folder, 0) == "dataset.image_size is 0: it must be positive"
    folder.rename(folder.parent / "imagenet-subset")
    for name, place in (("image_folder", "imagenet-subset"), ("imagenet_subset", "")):
        with pytest.raises(UserError, match="image_size is needed for images in folders"):
            data.load(name, folder.parent / place)


# --- ImageNet-subset


def test_subset_of_full_images_goes_first(folder: pathlib.Path) -> None:
    parent = folder.parent
    folder.rename(parent / "imagenet-subset-84px")
    loaded = data.load("imagenet_subset", parent, 4)
    assert loaded.name == "imagenet_subset"
    assert reds(loaded.test) == [4, 3]
    for split in ("train", "val"):
        save(parent / "imagenet-subset" / split / "bee" / "1.png", (7, 0, 0))
    assert reds(data.load("imagenet_subset", parent, 4).test) == [7]


def test_missing_subset_tells_where_it_goes(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError) as error:
        data.load("imagenet_subset", tmp_path, 84)
    assert str(error.value).startswith(
        f"no imagenet_subset in {tmp_path}: put it there as imagenet-subset or "
        "imagenet-subset-84px, a folder with train/CLASS/*.jpg"
    )


def test_real_subset(imagenet_subset_folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Three of the real classes, which at 84 pixels are what Pillow decodes."""
    classes = sorted(os.listdir(imagenet_subset_folder / "train"))[:3]
    for split in ("train", "val"):
        (tmp_path / "imagenet-subset-84px" / split).mkdir(parents=True)
        for name in classes:
            link = tmp_path / "imagenet-subset-84px" / split / name
            link.symlink_to(imagenet_subset_folder / split / name)
    loaded = data.load("imagenet_subset", tmp_path, 84)
    assert loaded.class_names == tuple(classes)
    for source, name in ((loaded.train, "train"), (loaded.test, "val")):
        files = [sorted((imagenet_subset_folder / name / c).iterdir()) for c in classes]
        assert np.bincount(source.labels).tolist() == [len(f) for f in files]
        for label in range(3):
            with Image.open(files[label][-1]) as image:
                last = source.images(np.flatnonzero(source.labels == label)[-1:])[0]
                np.testing.assert_array_equal(last, np.asarray(image.convert("RGB")))
    # photographs: about as bright as ImageNet's mean and as varied as its standard deviation
    scaled = (data.all_images(loaded.train) / 255 - loaded.mean) / loaded.std
    assert np.abs(scaled.mean((0, 1, 2))).max() < 0.5
    assert 0.7 < scaled.std() < 1.3
