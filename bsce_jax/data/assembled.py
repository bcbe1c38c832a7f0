"""A source that is assembled from records of other sources, with other labels."""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import numpy as np

from bsce_jax.data.source import CroppingSource, FittedSource, ImageShape, Source, digest


class Piece(NamedTuple):
    """Records of a source, in this order, and the labels that they get, int [k] each."""

    source: Source
    records: np.ndarray
    labels: np.ndarray


class _Assembled:
    """The records of some pieces, one piece after the other."""

    def __init__(self, pieces: Sequence[Piece]):
        self._pieces = pieces
        self._starts = [0, *itertools.accumulate(len(piece.records) for piece in pieces)]
        self.labels: np.ndarray = np.concatenate([p.labels for p in pieces]).astype(np.int32)

    @property
    def image_shape(self) -> ImageShape:
        return self._pieces[0].source.image_shape

    @property
    def identity(self) -> str:
        facts = [(p.source.identity.encode(), p.records.tobytes()) for p in self._pieces]
        return digest(self.labels.tobytes(), *itertools.chain(*facts))

    def images(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        return self._read(lambda piece, at: piece.source.images(piece.records[at[0]]), indices)

    def _read(
        self,
        read: Callable[[Piece, list[np.ndarray]], np.ndarray],
        *columns: Sequence[int] | np.ndarray,
    ) -> np.ndarray:
        """Read images piece by piece; `columns` are the records and what else is read by record."""
        records, *more = (np.asarray(column) for column in columns)
        images = np.zeros((len(records), *self.image_shape), np.uint8)
        owner = np.searchsorted(self._starts, records, side="right") - 1
        for number in np.unique(owner):
            here = owner == number
            at = [records[here] - self._starts[number], *(column[here] for column in more)]
            images[here] = read(self._pieces[number], at)
        return images


class _Cropping:
    """Crops of stored images, which every piece can make."""

    def crops(self: "_Assembled", indices: np.ndarray, seeds: np.ndarray) -> np.ndarray:  # type: ignore[misc]  # mixed into it
        def read(piece: Piece, at: list[np.ndarray]) -> np.ndarray:
            return cast(CroppingSource, piece.source).crops(piece.records[at[0]], at[1])

        return self._read(read, indices, seeds)


class _Fitted:
    """The fit of the images, which is that of the first piece."""

    @property
    def fit(self: "_Assembled") -> str:  # type: ignore[misc]  # mixed into it
        return cast(FittedSource, self._pieces[0].source).fit

    def fitted(self: "_Assembled", fit: str) -> Source:  # type: ignore[misc]  # mixed into it
        pieces = self._pieces
        return assemble(
            [p._replace(source=cast(FittedSource, p.source).fitted(fit)) for p in pieces]
        )


_ABILITIES = ((CroppingSource, _Cropping), (FittedSource, _Fitted))


def assemble(pieces: Sequence[Piece]) -> Source:
    """Make a source of the records of some pieces.

    It can crop stored images, and has a fit, if every piece has.

    Args:
      pieces: at least one, of sources with one shape of images. A record of the result is a
        position in all of their records.
    """
    abilities = [
        ability
        for protocol, ability in _ABILITIES
        if all(isinstance(piece.source, protocol) for piece in pieces)
    ]
    # protocols look at the class, so the class has the methods that the pieces have
    return cast(Source, type("Assembled", (*abilities, _Assembled), {})(pieces))
