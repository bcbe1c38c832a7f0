"""Checks of the user's arrays, with hints how to convert other ones."""

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np

from bsce_jax.errors import UserError

_CHUNK = 4096  # images in one histogram: bounds the memory
_COUNTS = (1, 3, 4)  # numbers of channels by which channels-first arrays are recognised


def labelled_images(images: Any, labels: Any, split: str) -> tuple[np.ndarray, list[Any]]:
    """Convert the images and labels of a split to arrays, and check them.

    Args:
      images: uint8 [n, height, width, channels] or [n, height, width].
      labels: [n].
      split: "train" or "test".

    Returns:
      The images, uint8 [n, height, width, channels], and the labels, all int or all str.

    Raises:
      UserError: anything else; the message says how to convert it.
    """
    what = f"{split}_images"
    try:
        images, labels = np.asarray(images), np.asarray(labels)
    except ValueError as error:
        raise UserError(f"{what} are of different sizes: resize them to one") from error
    images = images[..., None] if images.ndim == 3 else images
    check_images(images, what)
    check_labels(labels, len(images), f"{split}_labels")
    return images, labels.tolist()


def check_images(images: np.ndarray, what: str) -> None:
    """Check that images are uint8 [n, height, width, channels].

    Args:
      images: to check.
      what: name of the images in the message.

    Raises:
      UserError: they are not; the message says how to convert them.
    """
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise UserError(
            f"{what} have the shape {list(images.shape)}: give [n, height, width, channels]"
        )
    if images.shape[1] in _COUNTS and images.shape[3] not in _COUNTS:
        raise UserError(
            f"{what} have the shape {list(images.shape)}, channels first: write "
            f"{what}.transpose(0, 2, 3, 1)"
        )
    if images.dtype == np.uint8:
        return
    recipe = "give uint8 values of 0 to 255"
    if images.size and images.dtype.kind in "iuf":
        least, most = images.min(), images.max()
        if 0 <= least <= most <= 255:
            recipe = f"write {what}.astype(np.uint8)"
            if images.dtype.kind == "f":
                scaled = f"255 * {what}" if most <= 1 else what
                recipe = f"write np.rint({scaled}).astype(np.uint8)"
        raise UserError(f"{what} are {images.dtype}, {least:g} to {most:g}: {recipe}")
    raise UserError(f"{what} are {images.dtype}: {recipe}")


def check_labels(labels: np.ndarray, count: int, what: str) -> None:
    """Check that labels are [count] whole numbers or texts, one for each image.

    Args:
      labels: to check.
      count: number of images.
      what: name of the labels in the message.

    Raises:
      UserError: they are not; the message says how to convert them.
    """
    if labels.ndim != 1:
        recipe = "give one label for each image"
        if labels.ndim == 2:
            flat = f"{what}[:, 0]" if labels.shape[1] == 1 else f"{what}.argmax(axis=1)"
            recipe = f"write {flat}"
        raise UserError(f"{what} have the shape {list(labels.shape)}: {recipe}")
    if len(labels) != count:
        raise UserError(f"{what} are {len(labels)} for {count} images: give one for each")
    texts = labels.dtype.kind == "U" or (
        labels.dtype.kind == "O" and all(isinstance(label, str) for label in labels)
    )
    if labels.dtype.kind not in "iu" and not texts:
        recipe = f"write {what}.astype(int)" if labels.dtype.kind in "bf" else "give numbers"
        raise UserError(f"{what} are {labels.dtype}, not whole numbers or texts: {recipe}")


def number_classes(
    train: Sequence[Any], test: Sequence[Any], class_names: Sequence[str] | None
) -> tuple[tuple[str, ...], dict[Any, int]]:
    """Name the classes, and find the number of each label; see `Dataset.from_arrays`.

    Args:
      train: labels of the training images, all int or all str.
      test: labels of the test images.
      class_names: of the classes in order, None for the labels themselves.

    Returns:
      The names, and label -> class number, from 0.

    Raises:
      UserError: a label that only one split has, or names that do not fit the labels.
    """
    labels = set(train)
    for here, there, alone in (
        ("train", "test", labels - set(test)),
        ("test", "train", set(test) - labels),
    ):
        if alone:
            raise UserError(
                f"label {min(alone)!r} is in {here}_labels and not in {there}_labels: both need "
                "the same classes"
            )
    texts = any(isinstance(label, str) for label in labels)
    in_order = sorted(labels)
    if class_names is None:
        return tuple(map(str, in_order)), {label: i for i, label in enumerate(in_order)}
    names = tuple(map(str, class_names))
    if (twice := repeated(names)) is not None:
        raise UserError(f"class_names has {twice!r} twice: once is right")
    if texts:
        if unnamed := sorted(labels - set(names)):
            raise UserError(f"label {unnamed[0]!r} is not in class_names: name all classes")
        return names, {name: i for i, name in enumerate(names)}
    if len(in_order) == len(names):
        return names, {label: i for i, label in enumerate(in_order)}
    if in_order and not 0 <= in_order[0] <= in_order[-1] < len(names):
        raise UserError(
            f"class_names has {len(names)} names for {len(in_order)} labels, {in_order[0]} to "
            f"{in_order[-1]}: give one for each label"
        )
    return names, {label: label for label in in_order}


def statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Compute the mean and standard deviation of each channel, of images scaled to [0, 1].

    Args:
      images: uint8 [n, height, width, channels].
    """
    counts = np.zeros((images.shape[3], 256))
    for start in range(0, len(images), _CHUNK):
        for channel, found in enumerate(counts):
            pixels = images[start : start + _CHUNK, ..., channel]
            found += np.bincount(pixels.ravel(), minlength=256)
    values = np.arange(256) / 255
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    mean = shares @ values
    std = np.sqrt((shares * np.square(values - mean[:, None])).sum(axis=1))
    return tuple(mean.tolist()), tuple(std.tolist())


def repeated(names: Sequence[str]) -> str | None:
    """Find the first name that occurs more than once."""
    counts = collections.Counter(names)
    return next((name for name in names if counts[name] > 1), None)


def numbers(values: Any, what: str) -> tuple[float, ...]:
    """Make floats of the mean or the standard deviation of the channels.

    Args:
      values: one number for each channel.
      what: their name, for the message.

    Raises:
      UserError: something else.
    """
    try:
        return tuple(map(float, values))
    except (TypeError, ValueError):
        raise UserError(f"{what} is {values!r}: give one number for each channel") from None
