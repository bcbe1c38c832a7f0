"""The boxes of random-resized crops, which are cut on the host from images as they are stored.

A crop is a function of the seed, the task, the epoch and the place in the epoch alone, so that it
is the same for any number of processes and threads. An exemplar that is drawn twice has two crops.
"""

import math

import numpy as np

AREA = (0.08, 1.0)  # of the box, as a share of the image's
RATIO = (3 / 4, 4 / 3)  # width / height of the box
TRIES = 10
Box = tuple[int, int, int, int]  # left, top, right, bottom


def seeds(seed: int, task: int, epoch: int, places: np.ndarray) -> np.ndarray:
    """Draw the seed of each crop.

    Args:
      seed: of the run.
      task: number of the task.
      epoch: number of the epoch within the task.
      places: int, of any shape: positions of images in the order of the epoch.

    Returns:
      uint64 of the same shape.
    """
    state = np.zeros(places.shape, np.uint64)
    for number in (seed, task, epoch, places):
        state = _mix(state ^ np.asarray(number, np.uint64))
    return state


def random_box(seed: int, width: int, height: int) -> Box:
    """Draw the box of a crop as torchvision's RandomResizedCrop does.

    The area is uniform in 8 to 100 % of the image's, and the logarithm of width / height is uniform
    between those of 3/4 and 4/3. If ten boxes do not fit into the image, the largest central box of
    the nearest valid ratio is taken.

    Args:
      seed: from `seeds`.
      width: of the image, in pixels.
      height: likewise.
    """
    rng = np.random.default_rng(int(seed))
    for _ in range(TRIES):
        area = width * height * rng.uniform(*AREA)
        ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    w, h = width, height
    if width / height < RATIO[0]:
        h = round(width / RATIO[0])
    elif width / height > RATIO[1]:
        w = round(height * RATIO[1])
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _mix(state: np.ndarray) -> np.ndarray:
    """Mix the bits of 64-bit numbers (the finaliser of splitmix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        state = state + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return state ^ (state >> np.uint64(31))
