"""What a data set is to the rest of the library: arrays in memory and a few facts about them."""

import dataclasses

import numpy as np

from bsce_jax.errors import UserError


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

    def resized(self, size: int) -> "Dataset":
        """Makes the images smaller: each pixel is the mean of a block of old ones, rounded.

        `mean` and `std` stay as they are.

        Args:
          size: the new height and width, in pixels; must divide the old ones.

        Raises:
          UserError: it does not; the message lists the sizes that do.
        """
        height, width, _ = self.image_shape
        sizes = [s for s in range(1, height + 1) if height % s == width % s == 0]
        if size not in sizes:
            raise UserError(
                f"dataset.image_size is {size}: {self.name} has images of {height}x{width} "
                f"pixels, valid: {', '.join(map(str, sizes))}"
            )
        if height == width == size:
            return self
        train, test = (
            Split(_block_means(split.images, size), split.labels)
            for split in (self.train, self.test)
        )
        return dataclasses.replace(self, train=train, test=test)


def _block_means(images: np.ndarray, size: int) -> np.ndarray:
    n, height, width, channels = images.shape
    blocks = images.reshape(n, size, height // size, size, width // size, channels)
    return np.rint(blocks.mean((2, 4), np.float32)).astype(np.uint8)
