"""The seam between data sets and the rest: sources, what is refused, arrays of one's own."""

import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any
from unittest import mock

import numpy as np
import pytest

from bsce_jax import data
from bsce_jax.data import ArraySource, Dataset
from bsce_jax.data.source import digest
from bsce_jax.errors import UserError


def pixels(n: int = 4, shape: tuple[int, int, int] = (2, 3, 1), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8)


def source(
    n: int = 4, shape: tuple[int, int, int] = (2, 3, 1), classes: int = 2, seed: int = 0
) -> ArraySource:
    return ArraySource(pixels(n, shape, seed), np.arange(n) % classes)


def dataset(**changes: Any) -> Dataset:
    parts = {
        "name": "tiny",
        "train": source(),
        "test": source(seed=1),
        "class_names": ("a", "b"),
        "mean": (0.5,),
        "std": (0.25,),
    }
    return Dataset(**{**parts, **changes})


# --- sources


def test_images_come_by_record() -> None:
    images = pixels(5)
    made = ArraySource(images, np.array([0, 1, 2, 1, 0], np.int64))
    np.testing.assert_array_equal(made.images([3, 0, 3]), images[[3, 0, 3]])
    np.testing.assert_array_equal(made.images(np.array([4], np.int32)), images[4:])
    np.testing.assert_array_equal(data.all_images(made), images)
    assert made.images([]).shape == (0, 2, 3, 1)
    assert made.image_shape == (2, 3, 1)
    assert made.labels.dtype == np.int32
    assert made.labels.tolist() == [0, 1, 2, 1, 0]


def test_identity_is_of_shape_labels_and_bytes() -> None:
    images, labels = pixels(), np.array([0, 1, 0, 1])
    same = ArraySource(images.copy(), labels.astype(np.uint8)).identity
    assert same == ArraySource(images, labels).identity
    # neither views nor an order of axes in memory matter
    assert same == ArraySource(np.asfortranarray(images), labels).identity
    assert same == ArraySource(np.repeat(images, 2, axis=0)[::2], labels).identity
    changed = images.copy()
    changed[-1, -1, -1, -1] ^= 1
    others = {
        ArraySource(changed, labels).identity,
        ArraySource(images, 1 - labels).identity,
        ArraySource(images.reshape(4, 3, 2, 1), labels).identity,
        ArraySource(images[:3], labels[:3]).identity,
    }
    assert len(others | {same}) == 5
    assert len(same) == 16
    assert int(same, 16) >= 0


def test_digest_tells_cuts_apart() -> None:
    expected = hashlib.blake2b(b"\2" + bytes(7) + b"ab" + b"\1" + bytes(7) + b"c", digest_size=8)
    assert digest(b"ab", b"c") == expected.hexdigest()
    assert digest(b"ab", b"c") != digest(b"a", b"bc")


def test_identity_of_a_data_set() -> None:
    first = dataset()
    assert first.identity == dataset().identity
    changes: list[dict[str, Any]] = [
        {"class_names": ("a", "c")},
        {"train": source(seed=2)},
        {"test": source(seed=2)},
        {"train": source(seed=1), "test": source()},
    ]
    assert len({dataset(**change).identity for change in changes} | {first.identity}) == 5
    # how the images are normalised is the run's affair
    assert dataset(mean=(0.1,), name="other").identity == first.identity


def test_shape_classes_and_empty_classes() -> None:
    made = dataset(class_names=("a", "b", "c", "d"), train=source(classes=2))
    assert made.num_classes == 4
    assert made.image_shape == (2, 3, 1)
    assert made.empty_classes() == ("c", "d")
    assert dataset().empty_classes() == ()


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (pixels()[..., 0], [0] * 4, r"images have the shape [4, 2, 3]: give [n, height, width, ch"),
        (pixels(shape=(3, 8, 8)), [0] * 4, r"channels first: write images.transpose(0, 2, 3, 1)"),
        (pixels() / 255, [0] * 4, r"write np.rint(255 * images).astype(np.uint8)"),
        (pixels() / 2, [0] * 4, r"write np.rint(images).astype(np.uint8)"),
        (pixels().astype(int), [0] * 4, r"write images.astype(np.uint8)"),
        (pixels() - 128.0, [0] * 4, r": give uint8 values of 0 to 255"),
        (pixels() * np.nan, [0] * 4, r": give uint8 values of 0 to 255"),
        (pixels() > 9, [0] * 4, r"images are bool: give uint8 values of 0 to 255"),
        (pixels(), [0] * 3, r"labels are 3 for 4 images: give one for each"),
        (pixels(), [[0]] * 4, r"labels have the shape [4, 1]: write labels[:, 0]"),
        (pixels(), [[0, 1]] * 4, r"labels have the shape [4, 2]: write labels.argmax(axis=1)"),
        (pixels(), [0.0] * 4, r"labels are float64, not whole numbers or texts: write labels.ast"),
        (pixels(), ["a"] * 4, r"labels are <U1: give the classes' numbers, from 0"),
        (pixels(), [0, 1, -1, 0], r"labels are -1 to 1: count classes from 0"),
        (pixels(), [0, 1, 2**31, 0], r"labels are 0 to 2147483648: count classes from 0"),
    ],
)
def test_wrong_arrays_are_refused_with_a_recipe(
    images: np.ndarray, labels: Sequence[Any], message: str
) -> None:
    with pytest.raises(UserError) as error:
        ArraySource(images, np.array(labels))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"test": source(shape=(2, 2, 1))},
            "the training images of tiny are 2x3 pixels with 1 channels and the test images 2x2",
        ),
        ({"mean": (0.5,) * 3}, "mean of tiny has 3 values: the images have 1 channels"),
        ({"std": ()}, "std of tiny has 0 values"),
        ({"std": (0.0,)}, "std of tiny is 0.0: it must be above 0"),
        ({"std": (float("nan"),)}, "std of tiny is nan: it must be above 0"),
        ({"mean": (float("inf"),)}, "mean of tiny is inf: it must be finite"),
        ({"class_names": ("a", "a")}, "tiny has class name 'a' twice"),
        (
            {"class_names": ("a",)},
            "tiny has training label 1 and 1 class names: name all 2 classes, from label 0 on",
        ),
        ({"test": source(classes=3)}, "tiny has test label 2 and 2 class names"),
        ({"test": source(0)}, "tiny has no test images"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        dataset(**changes)
    assert str(error.value).startswith(message)


# --- arrays of one's own


def from_arrays(
    train_labels: Sequence[Any] | np.ndarray = (0, 1),
    test_labels: Sequence[Any] | np.ndarray = (1, 0),
    images: np.ndarray | None = None,
    **options: Any,
) -> Dataset:
    train = pixels(len(train_labels)) if images is None else images
    return Dataset.from_arrays(
        "mine", train, train_labels, pixels(len(test_labels)), test_labels, **options
    )


@pytest.mark.parametrize(
    ("labels", "names", "expected", "class_names"),
    [
        ([0, 1, 1], None, [0, 1, 1], ("0", "1")),
        ([1, 2, 1], None, [0, 1, 0], ("1", "2")),
        ([30, -7, 4], None, [2, 0, 1], ("-7", "4", "30")),
        (["dog", "ant", "dog"], None, [1, 0, 1], ("ant", "dog")),
        (np.array(["dog", "ant"], object), None, [1, 0], ("ant", "dog")),
        (["dog", "ant"], ["dog", "cat", "ant"], [0, 2], ("dog", "cat", "ant")),
        ([1, 2, 1], ["x", "y"], [0, 1, 0], ("x", "y")),  # as many as names
        ([1, 2, 1], ["x", "y", "z"], [1, 2, 1], ("x", "y", "z")),  # fewer: from 0
        (np.array([5, 3], np.uint8), ["x", "y"], [1, 0], ("x", "y")),
    ],
)
def test_labels_become_class_numbers(
    labels: Sequence[Any] | np.ndarray,
    names: list[str] | None,
    expected: list[int],
    class_names: tuple[str, ...],
) -> None:
    made = from_arrays(labels, labels, class_names=names)
    assert made.train.labels.tolist() == made.test.labels.tolist() == expected
    assert made.class_names == class_names


def test_grey_images_get_a_channel() -> None:
    images = pixels(2)[..., 0]
    made = Dataset.from_arrays("mine", images, [0, 1], images, [0, 1])
    np.testing.assert_array_equal(data.all_images(made.train)[..., 0], images)
    assert made.image_shape == (2, 3, 1)


def test_statistics_are_the_training_images_own() -> None:
    images = pixels(9000, (2, 2, 3))  # more than are counted at once
    images[..., 1] //= 3
    labels = np.arange(9000) % 2
    made = Dataset.from_arrays("mine", images, labels, images[:2] * 0, [0, 1])
    np.testing.assert_allclose(made.mean, (images / 255).mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(made.std, (images / 255).std((0, 1, 2)), rtol=1e-12)
    given = Dataset.from_arrays("mine", images, labels, images[:2], [0, 1], mean=[0.1, 0.2, 0.3])
    assert given.mean == (0.1, 0.2, 0.3)
    assert given.std == made.std


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train_labels": [0, 1, 7]}, "label 7 is in train_labels and not in test_labels"),
        ({"test_labels": [0, 1, 7]}, "label 7 is in test_labels and not in train_labels"),
        ({"test_labels": ["0", "1"]}, "label 0 is in train_labels and not in test_labels"),
        ({"images": pixels() / 255}, "train_images are float64, 0.0"),
        ({"images": pixels(3)}, "train_labels are 2 for 3 images: give one for each"),
        ({"images": [pixels(1)[0], pixels(1)[0, 1:]]}, "train_images are of different sizes"),
        ({"train_labels": np.eye(2)}, "train_labels have the shape [2, 2]: write train_labels.arg"),
        ({"test_labels": [[0], [1]]}, "test_labels have the shape [2, 1]: write test_labels[:, 0]"),
        ({"train_labels": [0.0, 1.0]}, "train_labels are float64, not whole numbers or texts"),
        ({"images": pixels(2) * 0}, "std of mine is 0.0: it must be above 0"),
        ({"class_names": ["a"]}, "class_names has 1 names for 2 labels, 0 to 1: give one for each"),
        ({"class_names": ["a", "a"]}, "class_names has 'a' twice"),
        (
            {"train_labels": ["a", "b"], "test_labels": ["b", "a"], "class_names": ["a", "c"]},
            "label 'b' is not in class_names",
        ),
        ({"train_labels": [], "images": pixels(0)}, "train_labels are float64"),
    ],
)
def test_arrays_of_another_kind_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        from_arrays(**arguments)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


# --- smaller arrays


def test_pixels_are_the_rounded_means_of_blocks() -> None:
    images = np.array([[0, 1, 10, 10], [2, 3, 20, 21], [255, 255, 0, 0], [255, 254, 0, 1]])
    split = ArraySource(images.astype(np.uint8).reshape(1, 4, 4, 1), np.zeros(1, np.int32))
    whole = Dataset("tiny", split, split, ("a",), (0.5,), (0.25,))
    half = whole.resized(2)
    # means 1.5, 15.25, 254.75, 0.25
    assert half.train.images([0])[0, ..., 0].tolist() == [[2, 15], [255, 0]]
    assert half.test.images([0]).dtype == np.uint8
    assert (half.name, half.mean, half.std) == ("tiny", (0.5,), (0.25,))
    assert whole.resized(1).train.images([0]).ravel().tolist() == [68]  # 1087 / 16 = 67.9
    assert whole.resized(4) is whole


def test_digits_can_be_made_smaller() -> None:
    digits = data.load("digits", "nowhere")
    half = data.load("digits", "nowhere", 4)
    assert half.image_shape == (4, 4, 1)
    for split, old in ((half.train, digits.train), (half.test, digits.test)):
        np.testing.assert_array_equal(split.labels, old.labels)
        corner = data.all_images(old)[:, 2:4, 4:6].astype(float).mean((1, 2, 3))
        assert np.abs(data.all_images(split)[:, 1, 2, 0] - corner).max() <= 0.5
    assert data.load("digits", "nowhere", 8).image_shape == (8, 8, 1)


@pytest.mark.parametrize("size", [-2, 0, 3, 16])
def test_other_sizes_are_refused(size: int) -> None:
    with pytest.raises(UserError) as error:
        data.load("digits", "nowhere", size)
    assert str(error.value) == (
        f"dataset.image_size is {size}: digits has images of 8x8 pixels, valid: 1, 2, 4, 8"
    )


# --- by name


@mock.patch.dict(data.DATASETS._things)  # for this test only
def test_a_data_set_can_be_registered() -> None:
    calls = []

    @data.DATASETS.register("tests/tiny")
    def load(data_dir: pathlib.Path, image_size: int | None) -> Dataset:
        calls.append((data_dir, image_size))
        return dataset(train=source(shape=(4, 4, 1)), test=source(shape=(4, 4, 1)))

    assert data.load("tests/tiny", "here").image_shape == (4, 4, 1)
    assert data.load("tests/tiny", "here", 4).image_shape == (4, 4, 1)
    assert data.load("tests/tiny", "here", 2).image_shape == (2, 2, 1)  # made smaller for it
    with pytest.raises(UserError, match="image_size is 3: tiny has images of 4x4"):
        data.load("tests/tiny", "here", 3)
    assert calls == [(pathlib.Path("here"), size) for size in (None, 4, 2, 3)]


@pytest.mark.parametrize("mean", [0.5, ["a"]])
def test_a_mean_that_is_no_list_of_numbers_is_refused(mean: Any) -> None:
    images, labels = np.zeros((4, 2, 2, 1), np.uint8), np.array([0, 1, 0, 1])
    with pytest.raises(UserError, match=r"mean is .*: give one number for each channel"):
        Dataset.from_arrays("own", images, labels, images, labels, mean=mean, std=[1.0])
