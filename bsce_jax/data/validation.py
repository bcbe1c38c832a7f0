"""A validation split: evaluation on a part of the training images, for tuning."""

import dataclasses

import numpy as np

from bsce_jax.data.assembled import Piece, assemble
from bsce_jax.data.source import Dataset, FittedSource
from bsce_jax.errors import UserError
from bsce_jax.streams import Purpose, generator


def hold_out(dataset: Dataset, fraction: float, seed: int) -> Dataset:
    """Evaluate on a part of the training images instead of the test images, which are left out.

    The choice is a function of the seed and of each class's number of images.

    Args:
      dataset: whose training images are split.
      fraction: of the images of each class, rounded; at least one image, but not the last one.
      seed: of the choice.

    Returns:
      The data set whose test images are held out. They are fitted as its test images were.

    Raises:
      UserError: no class has two training images.
    """
    labels = dataset.train.labels
    held = np.zeros(len(labels), bool)
    for label in range(dataset.num_classes):
        records = np.flatnonzero(labels == label)
        count = min(max(0, len(records) - 1), max(1, round(fraction * len(records))))
        rng = generator(seed, Purpose.VALIDATION, 0, label)
        held[rng.permutation(records)[:count]] = True
    if not held.any():
        raise UserError(
            f"dataset.validation is {fraction}: no class of {dataset.name} has two training images"
        )
    evaluated = dataset.train
    if isinstance(evaluated, FittedSource) and isinstance(dataset.test, FittedSource):
        evaluated = evaluated.fitted(dataset.test.fit)
    train, test = (
        assemble([Piece(source, records, labels[records])])
        for source, records in (
            (dataset.train, np.flatnonzero(~held)),
            (evaluated, np.flatnonzero(held)),
        )
    )
    return dataclasses.replace(dataset, train=train, test=test)
