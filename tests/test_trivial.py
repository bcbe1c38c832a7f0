"""TrivialAugment's operations against Pillow's, and Cutout against its definition."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from bsce_jax.data.augment import make_augment
from bsce_jax.data.trivial import OPERATIONS, cutout, trivial_augment

RNG = np.random.default_rng(0)
PHOTO = np.clip(RNG.normal(110, 45, (12, 10, 3)) + 8 * np.arange(10)[None, :, None], 3, 240)
PHOTO = PHOTO.astype(np.uint8)
PICTURE = Image.fromarray(PHOTO)


def affine(*numbers: float) -> Image.Image:
    """Take pixel (x, y) from (a x + b y + c, d x + e y + f), between the pixels' centres."""
    return PICTURE.transform(
        PICTURE.size, Image.Transform.AFFINE, numbers, Image.Resampling.NEAREST
    )


CASES: dict[str, Any] = {
    "shear_x": lambda m, s: affine(1, 0.99 * m * s, 0, 0, 1, 0),
    "shear_y": lambda m, s: affine(1, 0, 0, 0.99 * m * s, 1, 0),
    "translate_x": lambda m, s: affine(1, 0, -s * int(32 * m), 0, 1, 0),
    "translate_y": lambda m, s: affine(1, 0, 0, 0, 1, -s * int(32 * m)),
    "rotate": lambda m, s: PICTURE.rotate(135 * m * s, Image.Resampling.NEAREST),
    "brightness": lambda m, s: ImageEnhance.Brightness(PICTURE).enhance(1 + 0.99 * m * s),
    "color": lambda m, s: ImageEnhance.Color(PICTURE).enhance(1 + 0.99 * m * s),
    "contrast": lambda m, s: ImageEnhance.Contrast(PICTURE).enhance(1 + 0.99 * m * s),
    "sharpness": lambda m, s: ImageEnhance.Sharpness(PICTURE).enhance(1 + 0.99 * m * s),
    "posterize": lambda m, s: ImageOps.posterize(PICTURE, 8 - round(6 * m)),
    "solarize": lambda m, s: ImageOps.solarize(PICTURE, 255 * (1 - m)),
    "autocontrast": lambda m, s: ImageOps.autocontrast(PICTURE),
    "equalize": lambda m, s: ImageOps.equalize(PICTURE),
    "identity": lambda m, s: PICTURE,
}
GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")


def test_every_operation_is_compared() -> None:
    assert CASES.keys() == OPERATIONS.keys()
    assert len(OPERATIONS) == 14


@pytest.mark.parametrize("name", CASES)
def test_an_operation_is_that_of_pillow(name: str) -> None:
    operation = jax.jit(OPERATIONS[name])
    for strength in (0.0, 0.3, 0.7):
        for sign in (-1.0, 1.0):
            found = operation(PHOTO.astype(np.float32), np.float32(strength), np.float32(sign))
            wanted = np.asarray(CASES[name](strength, sign))
            apart = np.abs(found - wanted.astype(float))
            if name in GEOMETRIC:  # a place between two pixels may go to either
                assert (apart > 0).mean() < 0.03, (name, strength, sign)
            else:  # Pillow rounds each step
                assert apart.max() <= 1.5, (name, strength, sign, apart.max())


def test_a_batch_gets_every_operation_at_random_strength() -> None:
    images = np.broadcast_to(PHOTO, (400, *PHOTO.shape))
    key = jax.random.key(0)
    found = jax.jit(trivial_augment)(key, images)
    assert (found.shape, found.dtype) == (images.shape, jnp.float32)
    assert found.min() >= 0
    assert found.max() <= 1
    unchanged = np.isclose(found, PHOTO / 255, atol=1e-6).all(axis=(1, 2, 3)).mean()
    assert 1 / 14 < unchanged < 0.25  # identity, and the strengths 0 of others
    np.testing.assert_array_equal(found, jax.jit(trivial_augment)(key, images))
    assert len(np.unique(np.asarray(found).reshape(400, -1), axis=0)) > 150
    grey = jax.eval_shape(trivial_augment, key, images[:3, ..., :1])
    assert grey.shape == (3, 12, 10, 1)


def test_cutout_blacks_out_one_square_that_may_reach_over_the_edge() -> None:
    images = np.full((500, 8, 8, 1), 7, np.uint8)
    found = np.asarray(cutout(jax.random.key(1), images))
    assert found.dtype == np.uint8
    sizes = set()
    for image in found[..., 0]:
        rows, columns = np.nonzero((image == 0).any(1))[0], np.nonzero((image == 0).any(0))[0]
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert (image == 0).sum() == height * width
        sizes |= {int(height), int(width)}
    assert sizes == {2, 3, 4}
    # the centre is uniform: the corner is hidden by the squares of 2 x 2 centres of 64
    np.testing.assert_allclose((found[:, 0, 0, 0] == 0).mean(), 9 / 64, atol=0.05)


def test_they_are_parts_of_a_policy() -> None:
    augment = make_augment("crop+flip+trivial+cutout")
    found = jax.eval_shape(augment, jax.random.key(0), np.stack([PHOTO] * 2))
    assert (found.shape, found.dtype) == ((2, *PHOTO.shape), jnp.float32)
