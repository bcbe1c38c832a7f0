"""A task and its images, as the hooks outside the compiled step get them."""

import dataclasses
from typing import Protocol

import jax
import numpy as np

from bsce_jax.methods.state import ModelState
from bsce_jax.models import Classifier


@dataclasses.dataclass(frozen=True)
class TaskInfo:
    """A task as the hooks outside the compiled step get it.

    Attributes:
      index: number of the task, from 0.
      old: how many classes were seen before; they are positions 0 to `old - 1`.
      seen: how many classes are seen, this task's included.
      seed: of the run; hooks that draw at random derive their generator from it and `index`.
      labels: [n] int32, position in the class order of every training record, -1 outside it.
      train: indices of the records trained on (after any held-out split).
      validation: indices of the held-out records, empty unless the first stage has a `holdout`.
      balanced: whether the loss corrects the imbalance of old and new classes, so that the method
        need not; false with `config.train.finetuning` = `always`.
    """

    index: int
    old: int
    seen: int
    seed: int
    labels: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    balanced: bool

    @property
    def new(self) -> range:
        """Positions of the classes that this task brings."""
        return range(self.old, self.seen)

    def records(self, position: int) -> np.ndarray:
        """List the records trained on of one class."""
        return self.train[self.labels[self.train] == position]


class Probe(Protocol):
    """Computes features and logits of training records, for hooks.

    Images come in batches, without augmentation, and the network is in inference mode.

    Attributes:
      network: the network of the task.
    """

    network: Classifier

    @property
    def initial(self) -> ModelState:
        """The model as the run's seed initialises it, with the backbone of `model.init`."""

    def images(self, records: np.ndarray) -> jax.Array:
        """Read normalised images, [n, height, width, channels] float32, all at once."""

    def features(
        self, model: ModelState, records: np.ndarray, mirrored: bool = False
    ) -> np.ndarray:
        """Compute the features of records, mirrored left to right or not, [n, D] float32."""

    def logits(self, model: ModelState, records: np.ndarray) -> np.ndarray:
        """Compute the logits of records, [n, C] float32."""
