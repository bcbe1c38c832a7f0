"""AutoAugment's sub-policies against Pillow, and how often they are drawn."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from test_trivial import GEOMETRIC

from bsce_jax.data.augment import make_augment
from bsce_jax.data.autoaugment import ALL, POLICY, Part, autoaugment, strength_of

RNG = np.random.default_rng(0)
SIZE = 24
PHOTO = np.clip(RNG.normal(110, 45, (SIZE, SIZE, 3)) + 5 * np.arange(SIZE)[None, :, None], 3, 240)
PHOTO = PHOTO.astype(np.uint8)


def by_pillow(picture: Image.Image, part: Part, sign: int) -> Image.Image:
    """The ranges of the paper: shear 0.3, translation 150 / 331, 30 degrees, 0.9, 4 bits, 256."""
    share = part.magnitude / 9

    def affine(*numbers: float) -> Image.Image:
        return picture.transform(
            picture.size, Image.Transform.AFFINE, numbers, Image.Resampling.NEAREST
        )

    pixels = sign * int(150 / 331 * SIZE * share)
    factor = 1 + 0.9 * share * sign
    threshold: Any = 255 - 255 * share
    return {
        "shear_x": lambda: affine(1, 0.3 * share * sign, 0, 0, 1, 0),
        "shear_y": lambda: affine(1, 0, 0, 0.3 * share * sign, 1, 0),
        "translate_x": lambda: affine(1, 0, -pixels, 0, 1, 0),
        "translate_y": lambda: affine(1, 0, 0, 0, 1, -pixels),
        "rotate": lambda: picture.rotate(30 * share * sign, Image.Resampling.NEAREST),
        "brightness": lambda: ImageEnhance.Brightness(picture).enhance(factor),
        "color": lambda: ImageEnhance.Color(picture).enhance(factor),
        "contrast": lambda: ImageEnhance.Contrast(picture).enhance(factor),
        "sharpness": lambda: ImageEnhance.Sharpness(picture).enhance(factor),
        "posterize": lambda: ImageOps.posterize(picture, 8 - round(4 * share)),
        "solarize": lambda: ImageOps.solarize(picture, threshold),
        "autocontrast": lambda: ImageOps.autocontrast(picture),
        "equalize": lambda: ImageOps.equalize(picture),
        "invert": lambda: ImageOps.invert(picture),
    }[part.operation]()


@functools.cache
def compiled(name: str) -> Callable[..., jax.Array]:
    return jax.jit(ALL[name])


@pytest.mark.parametrize("part", sorted({part for pair in POLICY for part in pair}), ids=str)
def test_an_operation_has_the_range_of_the_paper(part: Part) -> None:
    operation = compiled(part.operation)
    for sign in (-1, 1):
        strength = np.float32(strength_of(part, SIZE))
        found = operation(PHOTO.astype(np.float32), strength, np.float32(sign))
        wanted = np.asarray(by_pillow(Image.fromarray(PHOTO), part, sign))
        apart = np.abs(np.asarray(found) - wanted.astype(float))
        if part.operation in GEOMETRIC:
            assert (apart > 0).mean() < 0.03, sign
        else:
            assert apart.max() <= 1.5, sign


def test_both_operations_are_applied_in_turn_with_their_probabilities() -> None:
    """On a black image only inversions show, and nothing that comes after or before one."""
    black = np.zeros((6000, 4, 4, 1), np.uint8)
    found = np.asarray(jax.jit(autoaugment)(jax.random.key(0), black))
    white = (found == 1).all(axis=(1, 2, 3))
    assert ((found == 0).all(axis=(1, 2, 3)) | white).all()
    # three pairs invert: with 0.1, 0 and 0.1
    np.testing.assert_allclose(white.mean(), 0.2 / 25, atol=0.004)


def test_it_draws_every_sub_policy_and_repeats_itself() -> None:
    images = np.broadcast_to(PHOTO, (600, *PHOTO.shape))
    key = jax.random.key(1)
    augment = jax.jit(make_augment("autoaugment"))
    found = np.asarray(augment(key, images))
    assert found.shape == images.shape
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert found.max() <= 1
    np.testing.assert_array_equal(found, augment(key, images))
    # two operations, each in one of two directions or not at all, of 25 pairs
    kinds = np.unique(found.reshape(600, -1), axis=0)
    assert 70 < len(kinds) < 9 * 25
    unchanged = np.isclose(found, PHOTO / 255, atol=1e-6).all(axis=(1, 2, 3)).mean()
    wanted = np.mean([(1 - a.probability) * (1 - b.probability) for a, b in POLICY])
    np.testing.assert_allclose(unchanged, wanted, atol=0.06)
    assert jax.eval_shape(autoaugment, key, jnp.zeros((2, 8, 8, 1))).shape == (2, 8, 8, 1)
