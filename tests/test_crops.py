"""Random-resized crops on the host: their distribution, their seeds and their pixels."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bsce_jax.data import crops
from bsce_jax.data.decode import random_resized_crop


def slow_mix(number: int) -> int:
    """The finaliser of splitmix64, in Python's whole numbers."""
    low = 2**64 - 1
    number = (number + 0x9E3779B97F4A7C15) & low
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & low
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & low
    return number ^ (number >> 31)


@given(*[st.integers(0, 2**32 - 1)] * 4)
def test_seeds_mix_all_four_numbers(seed: int, task: int, epoch: int, place: int) -> None:
    state = 0
    for number in (seed, task, epoch, place):
        state = slow_mix(state ^ number)
    found = crops.seeds(seed, task, epoch, np.array([[place, 0]]))
    assert found.shape == (1, 2)
    assert found.dtype == np.uint64
    assert int(found[0, 0]) == state


def test_the_first_output_of_splitmix64() -> None:
    assert slow_mix(0) == 0xE220A8397B1DCDAF  # as published with the generator, for seed 0


def test_seeds_do_not_depend_on_the_other_places() -> None:
    places = np.arange(1000)
    together = crops.seeds(3, 1, 7, places)
    assert len(set(together.tolist())) == 1000
    np.testing.assert_array_equal(crops.seeds(3, 1, 7, places[500:510]), together[500:510])
    assert not np.any(crops.seeds(3, 1, 8, places) == together)


@given(st.integers(0, 2**64 - 1), st.integers(1, 700), st.integers(1, 700))
def test_a_box_is_inside_its_image(seed: int, width: int, height: int) -> None:
    left, top, right, bottom = crops.random_box(seed, width, height)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


def test_boxes_have_the_published_distribution() -> None:
    width, height = 500, 400
    boxes = np.array([crops.random_box(s, width, height) for s in range(4000)])
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    ratio = w / h
    assert ratio.min() > 0.72
    assert ratio.max() < 1.36
    # boxes below half of the area always fit: there nothing is drawn again
    area = w * h / (width * height)
    assert area.min() > 0.075
    small = area[area < 0.5]
    logarithms = np.log(ratio[area < 0.5]) / math.log(4 / 3)  # uniform in -1 to 1
    np.testing.assert_allclose(
        np.quantile(logarithms, [0.25, 0.5, 0.75]), [-0.5, 0, 0.5], atol=0.08
    )
    quartiles = np.quantile(small, [0.25, 0.5, 0.75])
    np.testing.assert_allclose(quartiles, [0.185, 0.29, 0.395], atol=0.015)
    left = boxes[:, 0] / np.maximum(1, width - w)
    assert abs(left.mean() - 0.5) < 0.02


@pytest.mark.parametrize(
    ("width", "height", "box"), [(900, 3, (448, 0, 452, 3)), (3, 900, (0, 448, 3, 452))]
)
def test_where_no_box_fits_the_largest_central_one_is_taken(
    width: int, height: int, box: crops.Box
) -> None:
    assert {crops.random_box(s, width, height) for s in range(50)} == {box}


def test_a_crop_is_the_resized_box() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    image = Image.fromarray(pixels)
    for seed in range(5):
        left, top, right, bottom = crops.random_box(seed, 50, 40)
        cut = image.crop((left, top, right, bottom)).resize((16, 16), Image.Resampling.BILINEAR)
        found = random_resized_crop(image, 16, seed)
        # Pillow reads pixels round a box when it resizes from it
        difference = np.abs(np.asarray(cut, int) - np.asarray(found, int))
        assert difference[2:-2, 2:-2].max() <= 1
        assert found.size == (16, 16)
