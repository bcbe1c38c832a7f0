"""Random streams: as they were, and no two the same."""

import itertools

import numpy as np
import pytest

from bsce_jax.errors import UserError
from bsce_jax.streams import Purpose, generator


@pytest.mark.parametrize(
    ("seed", "task", "epoch", "numbers", "order"),
    [
        (5, 0, 0, [115649731, 3558796826, 1745946738], [7, 0, 1, 4, 5, 6, 2, 3]),
        (5, 1, 3, [2718633642, 2727121050, 1904584909], [0, 6, 1, 4, 3, 5, 7, 2]),
        (5, 2, 160, [1531207639, 10561550, 1079506827], [2, 5, 4, 1, 0, 3, 6, 7]),
        (2**32 - 1, 1, 3, [3481158452, 1846299126, 1717637882], None),
    ],
)
def test_the_epoch_stream_is_frozen(
    seed: int, task: int, epoch: int, numbers: list[int], order: list[int] | None
) -> None:
    """Whoever repeats a run trains on the same batches as before."""
    drawn = generator(seed, Purpose.EPOCH, task, epoch).integers(2**32, size=3)
    assert drawn.tolist() == numbers
    if order is not None:
        assert generator(seed, Purpose.EPOCH, task, epoch).permutation(8).tolist() == order


def test_no_two_streams_are_the_same() -> None:
    keys = list(itertools.product((0, 1, 6), Purpose, (0, 1, 2), (0, 1, 2)))
    draws = {tuple(generator(*key).integers(2**60, size=2).tolist()) for key in keys}
    assert len(draws) == len(keys)
    again = generator(6, Purpose.FISHER, 2).integers(2**60, size=2)
    assert tuple(again.tolist()) in draws
    np.testing.assert_array_equal(again, generator(6, Purpose.FISHER, 2, 0).integers(2**60, size=2))


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_other_seeds_are_refused(seed: int) -> None:
    with pytest.raises(UserError, match=f"seed is {seed}: choose 0 to 4294967295"):
        generator(seed, Purpose.EPOCH, 0)
