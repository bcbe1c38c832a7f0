"""Augmentation: each function against its definition, sample by sample."""

import math
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsce_jax.data.augment import (
    AUGMENTATIONS,
    make_augment,
    normalize,
    random_boxes,
    random_brightness,
    random_crop,
    random_flip,
    random_resized_crop,
)
from bsce_jax.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parent.parent
POLICIES = [
    "none",
    "crop",
    "resized_crop",
    "flip",
    "brightness",
    "crop+flip",
    "crop+flip+brightness",
    "resized_crop+flip",
]


boxes_of = jax.jit(random_boxes, static_argnums=(1, 2))


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 256, shape, np.uint8)


def corners(cropped: np.ndarray, image: np.ndarray, padding: int) -> list[tuple[int, int]]:
    """Finds every corner at which the padded image shows the crop."""
    height, width, _ = image.shape
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    steps = range(2 * padding + 1)
    windows = {(i, j): padded[i : i + height, j : j + width] for i in steps for j in steps}
    return [corner for corner, window in windows.items() if np.array_equal(window, cropped)]


def test_normalize_by_hand() -> None:
    images = np.array([[[[0, 51]]], [[[255, 102]]]], np.uint8)  # 0 0.2; 1 0.4
    expected = [[[[-1.0, 0.0]]], [[[1.0, 2.0]]]]
    for x in (images, images.astype(np.float32) / 255):
        result = normalize(x, (0.5, 0.2), (0.5, 0.1))
        assert result.dtype == jnp.float32
        np.testing.assert_allclose(result, expected, atol=1e-6)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**31 - 1), st.sampled_from([(5, 4, 3, 1), (3, 6, 5, 2), (4, 8, 8, 0)]))
def test_crop_is_a_window_of_the_padded_image(seed: int, sizes: tuple[int, int, int, int]) -> None:
    batch, height, width, padding = sizes
    images = noise(batch, height, width, 3)
    result = np.asarray(random_crop(jax.random.key(seed), images, padding))
    assert result.dtype == np.uint8
    for image, cropped in zip(images, result, strict=True):
        assert len(corners(cropped, image, padding)) == 1


def test_every_window_is_as_likely() -> None:
    images = np.tile(noise(1, 4, 4, 1), (4096, 1, 1, 1))
    result = np.asarray(random_crop(jax.random.key(0), images, 1))
    found = [corners(cropped, images[0], 1)[0] for cropped in result]
    counts = [found.count((i, j)) for i in range(3) for j in range(3)]
    assert sum(counts) == 4096
    # 455 expected, standard deviation 20
    assert min(counts) > 350
    assert max(counts) < 560


def drawn_boxes(seed: int, count: int, image_size: tuple[int, int]) -> np.ndarray:
    """Draws boxes as the text of torchvision's RandomResizedCrop says, one by one."""
    rng = np.random.default_rng(seed)
    height, width = image_size
    boxes = []
    for _ in range(count):
        for _ in range(10):
            area = height * width * rng.uniform(0.08, 1)
            ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
            h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
            if 0 < w <= width and 0 < h <= height:
                y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
                break
        else:
            if width / height < 3 / 4:
                h, w = round(width / (3 / 4)), width
            elif width / height > 4 / 3:
                h, w = height, round(height * 4 / 3)
            else:
                h, w = height, width
            y, x = (height - h) // 2, (width - w) // 2
        boxes.append([[y, x], [h, w]])
    return np.array(boxes)


@pytest.mark.parametrize("image_size", [(1, 1), (2, 3), (8, 8), (5, 12), (9, 90)])
def test_boxes_are_inside_the_image(image_size: tuple[int, int]) -> None:
    boxes = np.asarray(boxes_of(jax.random.key(0), 2000, image_size))
    assert boxes.dtype == np.int32
    corner, size = np.moveaxis(boxes, 1, 0)
    assert (corner >= 0).all()
    assert (size > 0).all()
    assert (corner + size <= image_size).all()


def summary(boxes: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Summarises boxes: how many have less than some areas and shapes, places, whole sides."""
    height, width = boxes[:, 1].T
    area = height * width / np.prod(image_size)
    slack = np.array(image_size) - boxes[:, 1]
    place = np.where(slack > 0, boxes[:, 0] / np.maximum(slack, 1), 0.5)
    return np.concatenate(
        [
            (area[:, None] < np.linspace(0.05, 1, 20)).mean(0),
            (height[:, None] < width[:, None] * np.linspace(0.7, 1.4, 15)).mean(0),
            (slack == 0).mean(0),
            place.mean(0),
            place.std(0),
        ]
    )


@pytest.mark.parametrize("image_size", [(224, 224), (8, 8), (60, 90), (40, 7)])
def test_boxes_have_torchvisions_distributions(image_size: tuple[int, int]) -> None:
    ours = np.asarray(boxes_of(jax.random.key(0), 20_000, image_size))
    theirs = drawn_boxes(0, 20_000, image_size)
    # a share in two samples differs by 0.005, one standard deviation, or less
    np.testing.assert_allclose(summary(ours, image_size), summary(theirs, image_size), atol=0.02)


def test_square_images_give_the_known_numbers() -> None:
    """Median area 0.478; 1.0 % of the boxes are as wide or as high as the image."""
    boxes = np.asarray(boxes_of(jax.random.key(1), 50_000, (224, 224)))
    assert np.median(boxes[:, 1].prod(1) / 224**2) == pytest.approx(0.478, abs=0.006)
    assert (boxes[:, 1] == 224).any(1).mean() == pytest.approx(0.010, abs=0.002)


@pytest.mark.parametrize(
    ("image_size", "expected"),
    [
        ((2, 100), [[0, 48], [2, 3]]),  # 2 * 4/3 = 2.7
        ((100, 2), [[48, 0], [3, 2]]),
        ((30, 3000), [[0, 1480], [30, 40]]),
    ],
)
def test_long_images_fall_back_to_the_middle(
    image_size: tuple[int, int], expected: list[list[int]]
) -> None:
    """No box fits: of such an image the least area, 8 %, is more than a box's height allows."""
    assert 0.08 * max(image_size) > 4 / 3 * min(image_size) * 1.6  # rounded sides included
    boxes = np.asarray(boxes_of(jax.random.key(0), 50, image_size))
    np.testing.assert_array_equal(boxes, np.broadcast_to(expected, boxes.shape))


def test_places_are_uniform_among_the_pixels() -> None:
    boxes = np.asarray(boxes_of(jax.random.key(0), 30_000, (6, 6)))
    three = boxes[(boxes[:, 1] == 3).all(1), 0]
    tops, lefts = three.T
    counts = np.histogram2d(tops, lefts, bins=4, range=[[-0.5, 3.5]] * 2)[0]
    assert counts.sum() > 2000
    np.testing.assert_allclose(counts / counts.sum(), 1 / 16, atol=0.025)


def test_resized_crop_of_a_ramp_is_the_ramp_in_the_box() -> None:
    """Where the picture is linear, so is every bilinear crop: its values are known exactly."""
    height, width = 12, 16
    y, x = np.mgrid[:height, :width] + 0.5  # pixel centres
    image = np.stack([y / height, x / width], axis=-1).astype(np.float32)
    images = np.tile(image, (50, 1, 1, 1))
    key = jax.random.key(0)
    result = np.asarray(jax.jit(random_resized_crop)(key, images))
    boxes = np.asarray(boxes_of(key, 50, (height, width)))
    for out, (corner, size) in zip(result, boxes, strict=True):
        rows = corner[0] + (np.arange(height) + 0.5) / height * size[0]
        columns = corner[1] + (np.arange(width) + 0.5) / width * size[1]
        # beyond the outermost centres there is only the edge pixel
        rows, columns = rows.clip(0.5, height - 0.5), columns.clip(0.5, width - 0.5)
        expected = np.stack(np.meshgrid(rows / height, columns / width, indexing="ij"), axis=-1)
        np.testing.assert_allclose(out, expected, atol=1e-5)


def test_resized_crop_of_one_colour_is_that_colour() -> None:
    colours = np.linspace(0, 255, 64).astype(np.uint8).reshape(-1, 1, 1, 1)
    images = np.broadcast_to(colours, (64, 9, 7, 3))
    result = np.asarray(jax.jit(random_resized_crop)(jax.random.key(1), images))
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, images / 255, atol=1e-6)
    assert result.max() <= 1


def test_flip_mirrors_half_of_the_images_left_to_right() -> None:
    images = noise(2000, 3, 5, 2)
    result = np.asarray(random_flip(jax.random.key(0), images))
    mirrored = (result == images[:, :, ::-1]).all(axis=(1, 2, 3))
    same = (result == images).all(axis=(1, 2, 3))
    assert (mirrored ^ same).all()
    assert 900 < mirrored.sum() < 1100  # standard deviation 22


def test_brightness_is_a_factor_for_each_image() -> None:
    images = np.random.default_rng(0).uniform(0.1, 0.7, (500, 2, 2, 3)).astype(np.float32)
    factors = np.asarray(random_brightness(jax.random.key(0), images, 0.4)) / images
    np.testing.assert_allclose(
        factors, np.broadcast_to(factors[:, :1, :1, :1], factors.shape), 1e-5
    )
    factors = factors[:, 0, 0, 0]
    assert 0.6 <= factors.min() < 0.62
    assert 1.38 < factors.max() <= 1.4 + 1e-6
    assert len(np.unique(factors)) > 490
    assert abs(factors.mean() - 1) < 0.05  # standard deviation 0.01


def test_brightness_is_clipped() -> None:
    images = np.full((100, 1, 1, 1), 255, np.uint8)
    result = np.asarray(random_brightness(jax.random.key(0), images, 0.5))
    assert result.max() == 1
    assert np.sum(result == 1) > 30
    assert result.min() < 0.6


def test_none_only_scales() -> None:
    images = noise(4, 3, 3, 1)
    result = make_augment("none")(jax.random.key(0), jnp.asarray(images))
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, images / 255.0, rtol=1e-6)


@pytest.fixture(autouse=True)
def strict_ranks() -> Iterator[None]:
    """Nothing may rely on a rank being promoted."""
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.mark.parametrize("policy", POLICIES)
def test_policy(policy: str) -> None:
    """The same under jit; by key and position only; an image in [0, 1] whatever is asked for."""
    augment = make_augment(policy)
    images = jnp.asarray(noise(16, 8, 8, 3))
    key = jax.random.key(3)
    result = augment(key, images)
    assert result.shape == images.shape
    assert result.dtype == jnp.float32
    assert 0 <= result.min() <= result.max() <= 1
    np.testing.assert_allclose(jax.jit(augment)(key, images), result, rtol=1e-6, atol=2e-6)
    np.testing.assert_allclose(augment(key, images[:5]), result[:5], rtol=1e-6, atol=2e-6)
    other = augment(jax.random.key(4), images)
    assert np.array_equal(other, result) == (policy == "none")


def test_parts_are_drawn_independently() -> None:
    """A crop at the left edge is not always a mirrored one."""
    ramp = np.tile(np.arange(1, 9, dtype=np.uint8), (512, 8, 1))[..., None]  # rises to the right
    result = np.asarray(make_augment("crop+flip")(jax.random.key(0), jnp.asarray(ramp)))
    row = np.rint(result[..., 0] * 255).max(axis=1)
    mirrored = row[:, 3] > row[:, 4]
    rows_lost = (result[:, :4, :, 0].max(axis=2) == 0).sum(axis=1)
    assert {(m, n) for m, n in zip(mirrored.tolist(), rows_lost.tolist(), strict=True)} == {
        (m, n) for m in (False, True) for n in range(5)
    }


def test_strengths_are_the_papers() -> None:
    images = jnp.full((2000, 1, 1, 1), 100, jnp.uint8)
    factor = make_augment("brightness")(jax.random.key(0), images) * 255 / 100
    assert float(factor.min()) == pytest.approx(1 - 63 / 255, abs=0.005)
    assert float(factor.max()) == pytest.approx(1 + 63 / 255, abs=0.005)
    image = noise(1, 12, 12, 1)
    many = jnp.asarray(np.tile(image, (1500, 1, 1, 1)))
    cropped = np.rint(np.asarray(make_augment("crop")(jax.random.key(0), many)) * 255)
    assert len(np.unique(cropped, axis=0)) == 9 * 9  # padding 4


@pytest.mark.parametrize("policy", ["crop+flop", "flop", "crop+none", ""])
def test_unknown_part_is_named(policy: str) -> None:
    with pytest.raises(UserError, match=r"unknown augmentation '(flop|none|)'; (did|valid)"):
        make_augment(policy)


@pytest.mark.parametrize("policy", ["crop,flip", "crop flip", "crop + flip", "crop;flip"])
def test_parts_joined_otherwise_are_told_how(policy: str) -> None:
    with pytest.raises(UserError) as error:
        make_augment(policy)
    assert str(error.value) == (
        f"augmentation {policy!r}: join its parts with '+', as in 'crop+flip'"
    )


@mock.patch.dict(AUGMENTATIONS._things)  # for this test only
def test_a_part_can_be_registered() -> None:
    AUGMENTATIONS.register("tests/dark")(lambda key, images: images // 2)
    images = jnp.asarray(noise(4, 3, 3, 1))
    result = make_augment("tests/dark+flip")(jax.random.key(0), images)
    expected = random_flip(jax.random.fold_in(jax.random.key(0), 1), images // 2) / 255
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_sharded_batch_is_augmented_the_same() -> None:
    script = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from bsce_jax.data.augment import make_augment
assert len(jax.devices()) == 4
mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3), np.uint8))
key = jax.random.key(0)
for policy in ("crop+flip+brightness", "resized_crop+flip"):
    augment = jax.jit(make_augment(policy))
    split = augment(key, jax.device_put(images, NamedSharding(mesh, P("data"))))
    assert not split.is_fully_replicated
    np.testing.assert_allclose(split, augment(key, images), rtol=1e-6, atol=2e-6)
"""
    environment = {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "4",
    }
    subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, **environment},
        check=True,
    )
