"""Augmentation: each function against its definition, sample by sample."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsce_jax.data.augment import (
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


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 256, shape, np.uint8)


def corners(cropped: np.ndarray, image: np.ndarray, padding: int) -> list[tuple[int, int]]:
    """Finds every corner at which the padded image shows the crop."""
    height, width, _ = image.shape
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    steps = range(2 * padding + 1)
    windows = {(i, j): padded[i : i + height, j : j + width] for i in steps for j in steps}
    return [corner for corner, window in windows.items() if np.array_equal(window, cropped)]


def test_normalize_by_hand():
    images = np.array([[[[0, 51]]], [[[255, 102]]]], np.uint8)  # 0 0.2; 1 0.4
    expected = [[[[-1.0, 0.0]]], [[[1.0, 2.0]]]]
    for x in (images, images.astype(np.float32) / 255):
        result = normalize(x, (0.5, 0.2), (0.5, 0.1))
        assert result.dtype == jnp.float32
        np.testing.assert_allclose(result, expected, atol=1e-6)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**31 - 1), st.sampled_from([(5, 4, 3, 1), (3, 6, 5, 2), (4, 8, 8, 0)]))
def test_crop_is_a_window_of_the_padded_image(seed, sizes):
    batch, height, width, padding = sizes
    images = noise(batch, height, width, 3)
    result = np.asarray(random_crop(jax.random.key(seed), images, padding))
    assert result.dtype == np.uint8
    for image, cropped in zip(images, result, strict=True):
        assert len(corners(cropped, image, padding)) == 1


def test_every_window_is_as_likely():
    images = np.tile(noise(1, 4, 4, 1), (4096, 1, 1, 1))
    result = np.asarray(random_crop(jax.random.key(0), images, 1))
    found = [corners(cropped, images[0], 1)[0] for cropped in result]
    counts = [found.count((i, j)) for i in range(3) for j in range(3)]
    assert sum(counts) == 4096
    # 455 expected, standard deviation 20
    assert min(counts) > 350
    assert max(counts) < 560


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**31 - 1), st.sampled_from([(8, 8), (5, 12), (84, 84), (40, 7)]))
def test_boxes_are_inside_the_image(seed, image_size):
    corner, size = np.moveaxis(np.asarray(random_boxes(jax.random.key(seed), 64, image_size)), 1, 0)
    assert (corner >= 0).all()
    assert (size > 0).all()
    assert (corner + size <= np.array(image_size) * (1 + 1e-6)).all()


def test_boxes_have_the_distributions_of_the_paper():
    side = 10
    boxes = np.asarray(random_boxes(jax.random.key(0), 20_000, (side, side)))
    corner, (height, width) = boxes[:, 0], boxes[:, 1].T
    ratio, area = width / height, height * width / side**2
    assert 3 / 4 * (1 - 1e-5) <= ratio.min() < 0.76
    assert 1.32 < ratio.max() <= 4 / 3 * (1 + 1e-5)
    assert 0.08 * (1 - 1e-5) <= area.min() < 0.082
    assert 0.95 < area.max() <= 1 + 1e-5
    # no box of less than 3/4 of a square is cut to it, and there the area is uniform
    whole = area < 0.75
    for limit in (0.2, 0.4, 0.6):
        share = np.mean(area < limit)
        assert share == pytest.approx((limit - 0.08) / 0.92, abs=0.015)  # 4 standard deviations
    assert np.mean(np.log(ratio[whole])) == pytest.approx(0, abs=0.006)
    assert np.std(np.log(ratio[whole])) == pytest.approx(np.log(16 / 9) / 12**0.5, abs=0.003)
    # along each side the place is uniform in what is left, and drawn for itself
    place = corner[whole] / (side - boxes[whole, 1])
    np.testing.assert_allclose(place.mean(0), 0.5, atol=0.012)
    np.testing.assert_allclose(place.std(0), 12**-0.5, atol=0.006)
    drawn = np.corrcoef([area[whole], np.log(ratio[whole]), *place.T])
    np.testing.assert_allclose(drawn, np.eye(4), atol=0.04)


def test_resized_crop_of_a_ramp_is_the_ramp_in_the_box():
    """Where the picture is linear, so is every bilinear crop: its values are known exactly."""
    height, width = 12, 16
    y, x = np.mgrid[:height, :width] + 0.5  # pixel centres
    image = np.stack([y / height, x / width], axis=-1).astype(np.float32)
    images = np.tile(image, (50, 1, 1, 1))
    key = jax.random.key(0)
    result = np.asarray(jax.jit(random_resized_crop)(key, images))
    boxes = np.asarray(random_boxes(key, 50, (height, width)))
    for out, (corner, size) in zip(result, boxes, strict=True):
        rows = corner[0] + (np.arange(height) + 0.5) / height * size[0]
        columns = corner[1] + (np.arange(width) + 0.5) / width * size[1]
        # beyond the outermost centres there is only the edge pixel
        rows, columns = rows.clip(0.5, height - 0.5), columns.clip(0.5, width - 0.5)
        expected = np.stack(np.meshgrid(rows / height, columns / width, indexing="ij"), axis=-1)
        np.testing.assert_allclose(out, expected, atol=1e-5)


def test_resized_crop_of_one_colour_is_that_colour():
    colours = np.linspace(0, 255, 64).astype(np.uint8).reshape(-1, 1, 1, 1)
    images = np.broadcast_to(colours, (64, 9, 7, 3))
    result = np.asarray(jax.jit(random_resized_crop)(jax.random.key(1), images))
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, images / 255, atol=1e-6)
    assert result.max() <= 1


def test_flip_mirrors_half_of_the_images_left_to_right():
    images = noise(2000, 3, 5, 2)
    result = np.asarray(random_flip(jax.random.key(0), images))
    mirrored = (result == images[:, :, ::-1]).all(axis=(1, 2, 3))
    same = (result == images).all(axis=(1, 2, 3))
    assert (mirrored ^ same).all()
    assert 900 < mirrored.sum() < 1100  # standard deviation 22


def test_brightness_is_a_factor_for_each_image():
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


def test_brightness_is_clipped():
    images = np.full((100, 1, 1, 1), 255, np.uint8)
    result = np.asarray(random_brightness(jax.random.key(0), images, 0.5))
    assert result.max() == 1
    assert np.sum(result == 1) > 30
    assert result.min() < 0.6


def test_none_only_scales():
    images = noise(4, 3, 3, 1)
    result = make_augment("none")(jax.random.key(0), jnp.asarray(images))
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, images / 255.0, rtol=1e-6)


@pytest.mark.parametrize("policy", POLICIES)
def test_policy(policy):
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


def test_parts_are_drawn_independently():
    """A crop at the left edge is not always a mirrored one."""
    ramp = np.tile(np.arange(1, 9, dtype=np.uint8), (512, 8, 1))[..., None]  # rises to the right
    result = np.asarray(make_augment("crop+flip")(jax.random.key(0), jnp.asarray(ramp)))
    row = np.rint(result[..., 0] * 255).max(axis=1)
    mirrored = row[:, 3] > row[:, 4]
    rows_lost = (result[:, :4, :, 0].max(axis=2) == 0).sum(axis=1)
    assert {(m, n) for m, n in zip(mirrored.tolist(), rows_lost.tolist(), strict=True)} == {
        (m, n) for m in (False, True) for n in range(5)
    }


def test_strengths_are_the_papers():
    images = jnp.full((2000, 1, 1, 1), 100, jnp.uint8)
    factor = make_augment("brightness")(jax.random.key(0), images) * 255 / 100
    assert float(factor.min()) == pytest.approx(1 - 63 / 255, abs=0.005)
    assert float(factor.max()) == pytest.approx(1 + 63 / 255, abs=0.005)
    image = noise(1, 12, 12, 1)
    many = jnp.asarray(np.tile(image, (1500, 1, 1, 1)))
    cropped = np.rint(np.asarray(make_augment("crop")(jax.random.key(0), many)) * 255)
    assert len(np.unique(cropped, axis=0)) == 9 * 9  # padding 4


@pytest.mark.parametrize("policy", ["crop+flop", "flop", "crop+none", ""])
def test_unknown_part_is_named(policy):
    with pytest.raises(UserError, match=r"unknown augmentation '(flop|none|)'; (did|valid)"):
        make_augment(policy)


def test_sharded_batch_is_augmented_the_same():
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
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    }
    subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, **environment},
        check=True,
    )
