"""What a data set is to the rest of the library: arrays in memory and a few facts about them."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels; a record's index in these arrays is its name everywhere else.

    Attributes:
      images: uint8 [n, height, width, channels].
      labels: int32 [n], the data set's own class numbers, from 0.
    """

    images: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set for image classification.

    Attributes:
      name: the name that `bsce_jax.data.load` knows it by.
      train: the training images.
      test: the test images.
      class_names: one for each label.
      mean: per channel, of images scaled to [0, 1]; what `normalize` subtracts.
      std: likewise; what `normalize` divides by.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels
