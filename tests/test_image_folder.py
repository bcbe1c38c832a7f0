"""Images in folders: what is read, in which order, how it is resized, and what is refused."""

import os

import numpy as np
import pytest
from PIL import Image

from bsce_jax import data
from bsce_jax.data import image_folder
from bsce_jax.errors import UserError

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def save(file, pixels):
    """Writes an image, of uint8 [height, width, 3] or of what broadcasts to 6x6 of it."""
    pixels = np.asarray(pixels, np.uint8)
    if pixels.ndim == 1:
        pixels = np.broadcast_to(pixels, (6, 6, 3))
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


@pytest.fixture
def folder(tmp_path):
    """Two classes, whose images tell their place by their red value."""
    for value, name in enumerate(
        ["train/bee/2.png", "train/bee/b.PNG", "train/ant/x.png", "val/bee/1.png", "val/ant/1.png"]
    ):
        save(tmp_path / "set" / name, (value, 0, 0))
    return tmp_path / "set"


def reds(split):
    assert (split.images[..., 1:] == 0).all()
    assert (split.images == split.images[:, :1, :1]).all()
    return split.images[:, 0, 0, 0].tolist()


# --- what is read


def test_order_is_by_class_and_by_file_name(folder):
    loaded = data.load("image_folder", folder, 4)
    assert loaded.name == "image_folder"
    assert loaded.class_names == ("ant", "bee")
    assert loaded.image_shape == (4, 4, 3)
    assert reds(loaded.train) == [2, 0, 1]
    assert reds(loaded.test) == [4, 3]
    assert loaded.train.labels.tolist() == [0, 1, 1]
    assert loaded.test.labels.tolist() == [0, 1]
    for split in (loaded.train, loaded.test):
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int32
    assert loaded.mean == (0.485, 0.456, 0.406)
    assert loaded.std == (0.229, 0.224, 0.225)


def test_many_files_keep_their_order(tmp_path):
    """More than one thread's share."""
    for i in range(200):
        save(tmp_path / "train" / "a" / f"{i:03}.png", (i, 0, 0))
    save(tmp_path / "val" / "a" / "0.png", RED)
    assert reds(image_folder.load(tmp_path, 1).train) == list(range(200))


def test_other_files_are_left_out(folder):
    save(folder / "train" / "ant" / ".hidden.png", RED)
    (folder / "train" / "ant" / "notes.txt").write_text("not an image")
    save(folder / "train" / "ant" / "deeper.png" / "x.png", RED)
    save(folder / "train" / ".cache" / "x.png", RED)
    (folder / "val" / "README.md").write_text("not a class")
    loaded = image_folder.load(folder, 4)
    assert loaded.class_names == ("ant", "bee")
    assert reds(loaded.train) == [2, 0, 1]


def test_test_folder_is_read_where_there_is_no_val(folder):
    for name in ("ant", "bee"):
        save(folder / "test" / name / "1.png", (9, 0, 0))
    assert reds(image_folder.load(folder, 4).test) == [4, 3]
    os.rename(folder / "val", folder / "unused")
    assert reds(image_folder.load(folder, 4).test) == [9, 9]


def test_every_kind_of_image_becomes_rgb(folder):
    ant = folder / "train" / "ant"
    Image.new("L", (6, 6), 50).save(ant / "a.png")
    Image.new("P", (6, 6), 0).save(ant / "b.png")  # of a palette that starts with black
    Image.new("RGBA", (6, 6), (10, 20, 30, 0)).save(ant / "c.png")
    Image.new("CMYK", (6, 6), (0, 0, 0, 0)).save(ant / "d.jpg")
    Image.new("RGB", (6, 6), (100, 150, 200)).save(ant / "e.JPEG", quality=95)
    pixels = image_folder.load(folder, 4).train.images[:5, 0, 0].astype(int)
    expected = [[50] * 3, [0] * 3, [10, 20, 30], [255] * 3, [100, 150, 200]]
    np.testing.assert_array_equal(pixels[:3], expected[:3])
    np.testing.assert_allclose(pixels[3:], expected[3:], atol=3)  # JPEG loses something


# --- resizing


@pytest.mark.parametrize("upright", [False, True])
def test_middle_is_cut_out_and_resized_with_a_triangle_filter(folder, upright):
    """Red, green and blue squares in a row, of which the green one is what is left.

    At half the size a filter reaches two pixels to each side: the outer columns take 1/8 of
    their light, the one pixel of the next square, from there.
    """
    stripes = np.repeat(np.array([[RED, GREEN, BLUE]], np.uint8), 4, axis=1).repeat(4, axis=0)
    axis = 1 if upright else 0
    save(folder / "train" / "ant" / "x.png", stripes.swapaxes(0, axis))
    whole = image_folder.load(folder, 4).train.images[0]
    np.testing.assert_array_equal(whole, np.broadcast_to(GREEN, (4, 4, 3)))
    half = image_folder.load(folder, 2).train.images[0].swapaxes(0, axis)
    left, right = (32, 223, 0), (0, 223, 32)  # 255 / 8 = 31.9
    np.testing.assert_allclose(half.astype(int), [[left, right]] * 2, atol=1)


def test_images_of_the_right_size_are_as_they_were(folder):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
    save(folder / "train" / "ant" / "x.png", pixels)
    np.testing.assert_array_equal(image_folder.load(folder, 6).train.images[0], pixels)


def test_small_images_are_made_larger(folder):
    assert reds(image_folder.load(folder, 17).train) == [2, 0, 1]


# --- what is refused


def refused(folder, size=4):
    with pytest.raises(UserError) as error:
        data.load("image_folder", folder, size)
    return str(error.value)


@pytest.mark.parametrize("split", ["train", "val"])
def test_missing_folder_tells_the_layout(folder, split):
    os.rename(folder / split, folder / "elsewhere")
    message = refused(folder)
    assert f"no folder {folder / ('test' if split == 'val' else 'train')}" in message
    assert "should hold train/CLASS/*.jpg and val/CLASS/*.jpg" in message


def test_images_without_classes_tell_the_layout(tmp_path):
    for split in ("train", "val"):
        save(tmp_path / split / "x.png", RED)
    assert refused(tmp_path).startswith(f"no classes in {tmp_path / 'train'}: ")


@pytest.mark.parametrize(("here", "there"), [("train", "val"), ("val", "train")])
def test_first_different_class_is_named(folder, here, there):
    save(folder / here / "cat" / "1.png", RED)
    save(folder / there / "dog" / "1.png", RED)
    assert refused(folder).startswith(
        f"class cat is in {folder / here} and not in {folder / there}"
    )


def test_class_without_images_is_named(folder):
    (folder / "val" / "ant" / "1.png").rename(folder / "val" / "ant" / "1.gif")
    assert refused(folder) == f"no images in {folder / 'val' / 'ant'}: no .jpg, .jpeg, .png"


@pytest.mark.parametrize("damage", ["text", "cut", "empty"])
def test_file_that_is_no_image_is_named(folder, damage):
    good = (folder / "train" / "bee" / "2.png").read_bytes()
    bad = folder / "val" / "bee" / "bad.png"
    bad.write_bytes({"text": b"not an image", "cut": good[:45], "empty": b""}[damage])
    assert refused(folder).startswith(f"cannot read {bad} as an image: ")


def test_decompression_bomb_is_refused(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 17)  # Pillow refuses at twice that
    assert "decompression bomb" in refused(folder)


def test_deep_grey_is_refused(folder):
    file = folder / "train" / "ant" / "deep.png"
    Image.fromarray(np.full((6, 6), 1000, np.uint16)).save(file)
    assert refused(folder) == f"{file} has 16-bit grey values: convert it to 8 bits"


def test_size_must_be_positive_and_given(folder):
    assert refused(folder, 0) == "dataset.image_size is 0: it must be positive"
    for name in ("image_folder", "imagenet_subset"):
        with pytest.raises(UserError, match=f"dataset.image_size is needed for {name}"):
            data.load(name, folder)


# --- ImageNet-subset


def test_subset_of_full_images_goes_first(folder):
    parent = folder.parent
    folder.rename(parent / "imagenet-subset-84px")
    loaded = data.load("imagenet_subset", parent, 4)
    assert loaded.name == "imagenet_subset"
    assert reds(loaded.test) == [4, 3]
    for split in ("train", "val"):
        save(parent / "imagenet-subset" / split / "bee" / "1.png", (7, 0, 0))
    assert reds(data.load("imagenet_subset", parent, 4).test) == [7]


def test_missing_subset_tells_where_it_goes(tmp_path):
    with pytest.raises(UserError) as error:
        data.load("imagenet_subset", tmp_path, 84)
    assert str(error.value).startswith(
        f"no ImageNet-subset in {tmp_path}: put it there as imagenet-subset or "
        "imagenet-subset-84px, a folder that holds train/CLASS/*.jpg"
    )


def test_real_subset(imagenet_subset_folder, tmp_path):
    """Three of the real classes, which at 84 pixels are what Pillow decodes."""
    classes = sorted(os.listdir(imagenet_subset_folder / "train"))[:3]
    for split in ("train", "val"):
        (tmp_path / "imagenet-subset-84px" / split).mkdir(parents=True)
        for name in classes:
            link = tmp_path / "imagenet-subset-84px" / split / name
            link.symlink_to(imagenet_subset_folder / split / name)
    loaded = data.load("imagenet_subset", tmp_path, 84)
    assert loaded.class_names == tuple(classes)
    for split, name in ((loaded.train, "train"), (loaded.test, "val")):
        files = [sorted((imagenet_subset_folder / name / c).iterdir()) for c in classes]
        assert np.bincount(split.labels).tolist() == [len(f) for f in files]
        for label in range(3):
            with Image.open(files[label][-1]) as image:
                last = split.images[split.labels == label][-1]
                np.testing.assert_array_equal(last, np.asarray(image.convert("RGB")))
    # photographs: about as bright as ImageNet's mean and as varied as its standard deviation
    scaled = (loaded.train.images / 255 - loaded.mean) / loaded.std
    assert np.abs(scaled.mean((0, 1, 2))).max() < 0.5
    assert 0.7 < scaled.std() < 1.3


# --- smaller arrays


def test_pixels_are_the_rounded_means_of_blocks():
    images = np.array([[0, 1, 10, 10], [2, 3, 20, 21], [255, 255, 0, 0], [255, 254, 0, 1]])
    split = data.Split(images.astype(np.uint8).reshape(1, 4, 4, 1), np.zeros(1, np.int32))
    dataset = data.Dataset("tiny", split, split, ("a",), (0.5,), (0.25,))
    half = dataset.resized(2)
    # means 1.5, 15.25, 254.75, 0.25
    assert half.train.images[0, ..., 0].tolist() == [[2, 15], [255, 0]]
    assert half.test.images.dtype == np.uint8
    assert (half.name, half.mean, half.std) == ("tiny", (0.5,), (0.25,))
    assert dataset.resized(1).train.images.ravel().tolist() == [68]  # 1087 / 16 = 67.9
    assert dataset.resized(4) is dataset


def test_digits_can_be_made_smaller():
    digits = data.load("digits", "nowhere")
    half = data.load("digits", "nowhere", 4)
    assert half.image_shape == (4, 4, 1)
    for split, old in ((half.train, digits.train), (half.test, digits.test)):
        np.testing.assert_array_equal(split.labels, old.labels)
        corner = old.images[:, 2:4, 4:6].astype(float).mean((1, 2, 3))
        assert np.abs(split.images[:, 1, 2, 0] - corner).max() <= 0.5
    assert data.load("digits", "nowhere", 8).image_shape == (8, 8, 1)


@pytest.mark.parametrize("size", [-2, 0, 3, 16])
def test_other_sizes_are_refused(size):
    with pytest.raises(UserError) as error:
        data.load("digits", "nowhere", size)
    assert str(error.value) == (
        f"dataset.image_size is {size}: digits has images of 8x8 pixels, valid: 1, 2, 4, 8"
    )
