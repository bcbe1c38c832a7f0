"""What a stage is about, in plain numbers."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from reference.network import Arrays


@dataclasses.dataclass(frozen=True)
class Problem:
    """A stage of a task.

    Attributes:
      method, options: the method's name and fields.
      loss, loss_options: name and fields of `config.loss`.
      stage: 0 for the training, 1 for the balanced fine-tuning.
      tasks: the classes of each task up to this one.
      num_classes: of the whole scenario.
      counts: [seen] images of each class in an epoch.
      momentum, weight_decay: of SGD.
    """

    method: str
    options: dict[str, Any]
    loss: str
    loss_options: dict[str, Any]
    stage: int
    tasks: list[range]
    num_classes: int
    counts: np.ndarray
    momentum: float
    weight_decay: float

    @property
    def old(self) -> int:
        return self.tasks[-1].start

    @property
    def seen(self) -> int:
        return self.tasks[-1].stop


class Model(NamedTuple):
    """Parameters and running statistics by path, and the method's own arrays."""

    params: Arrays
    stats: Arrays
    extra: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Batch:
    """A batch.

    Attributes:
      images: normalised.
      labels: positions.
      real: which samples are no padding.
      replayed: which samples are exemplars added to the batch.
      learning_rate: of the step.
      draws: random numbers of the step, by name.
      balanced: images and labels of a class-balanced batch, for a loss that learns.
    """

    images: np.ndarray
    labels: np.ndarray
    real: np.ndarray
    replayed: np.ndarray
    learning_rate: float
    draws: dict[str, np.ndarray]
    balanced: tuple[np.ndarray, np.ndarray] | None
