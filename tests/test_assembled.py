"""Sources that are assembled from records of others."""

import numpy as np
import pytest
from PIL import Image
from tiny_run import flat_images

from bsce_jax.data import ArraySource, CroppingSource, FittedSource
from bsce_jax.data.assembled import Piece, assemble
from bsce_jax.data.decode import random_resized_crop
from bsce_jax.runs.exemplars import StoredImages

FIRST = flat_images([3, 2]).train
SECOND = flat_images([4], seed=1).train
PIECES = (
    Piece(FIRST, np.array([4, 0]), np.array([7, 1])),
    Piece(SECOND, np.array([2, 2, 3]), np.array([0, 5, 5])),
)


def test_records_follow_each_other() -> None:
    source = assemble(PIECES)
    whole = np.concatenate([FIRST.images([4, 0]), SECOND.images([2, 2, 3])])
    np.testing.assert_array_equal(source.labels, [7, 1, 0, 5, 5])
    assert source.labels.dtype == np.int32
    assert source.image_shape == FIRST.image_shape
    for indices in ([0, 1, 2, 3, 4], [3, 0, 3, 1], [4], []):
        np.testing.assert_array_equal(source.images(indices), whole[np.array(indices, int)])


@pytest.mark.parametrize(
    "changed",
    [
        (PIECES[0], Piece(SECOND, np.array([2, 2, 1]), np.array([0, 5, 5]))),
        (PIECES[0], Piece(SECOND, np.array([2, 2, 3]), np.array([0, 5, 4]))),
        (PIECES[0], Piece(flat_images([4], seed=2).train, *PIECES[1][1:])),
        PIECES[::-1],
    ],
)
def test_other_records_have_another_identity(changed: tuple[Piece, ...]) -> None:
    assert assemble(PIECES).identity == assemble(PIECES).identity
    assert assemble(changed).identity != assemble(PIECES).identity


def test_it_can_do_what_every_piece_can() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, 9, 9, 3), np.uint8)
    stored = StoredImages(noise, np.arange(3))
    plain = ArraySource(noise, np.arange(3))
    both = [Piece(source, np.array([2, 1]), np.array([0, 0])) for source in (stored, plain)]
    assert not isinstance(assemble(both), CroppingSource)
    source = assemble(both[:1] * 2)
    assert isinstance(source, CroppingSource)
    assert not isinstance(source, FittedSource)
    indices, seeds = np.array([3, 0, 1]), np.array([5, 6, 7], np.uint64)
    crops = source.crops(indices, seeds)
    for crop, record, seed in zip(crops, (1, 2, 1), (5, 6, 7), strict=True):
        expected = random_resized_crop(Image.fromarray(noise[record]), 9, seed)
        np.testing.assert_array_equal(crop, np.asarray(expected))
