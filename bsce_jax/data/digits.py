"""Handwritten digits: 1797 images of 8x8 pixels that come with the package.

The test part of the UCI data set "Optical Recognition of Handwritten Digits" (E. Alpaydin and
C. Kaynak, 1998, https://doi.org/10.24432/C50P49, licence CC BY 4.0), as scikit-learn ships it.
The pixels, 0 to 16 there, are scaled to 0 to 255 here. `digits.npz` was made with

    from sklearn.datasets import load_digits
    digits = load_digits()
    images = np.round(digits.images * 255 / 16).astype(np.uint8)
    np.savez_compressed("digits.npz", images=images, labels=digits.target.astype(np.uint8))
"""

import importlib.resources
import pathlib

import numpy as np

from bsce_jax.data.source import DATASETS, ArraySource, Dataset


@DATASETS.register("digits")
def load(data_dir: pathlib.Path, image_size: int | None = None) -> Dataset:
    """Load the digits; every fifth image of a class, in file order, is a test image.

    Args:
      data_dir: not used.
      image_size: not used; see `Dataset.resized`.
    """
    file = importlib.resources.files("bsce_jax.data") / "digits.npz"
    with file.open("rb") as f, np.load(f) as arrays:
        images, labels = arrays["images"][..., None], arrays["labels"].astype(np.int32)
    test = np.zeros(len(labels), bool)
    for label in range(10):
        test[np.flatnonzero(labels == label)[4::5]] = True
    train = images[~test] / 255
    return Dataset(
        name="digits",
        train=ArraySource(images[~test], labels[~test]),
        test=ArraySource(images[test], labels[test]),
        class_names=tuple("0123456789"),
        mean=(float(train.mean()),),
        std=(float(train.std()),),
    )
