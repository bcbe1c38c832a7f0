"""Stages of a task: the records, schedule, trainable parameters and loss terms of a training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
from flax import traverse_util

from bsce_jax.methods.state import ModelState, Params
from bsce_jax.methods.step import Step, Terms
from bsce_jax.methods.task import Probe, TaskInfo


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of a task's training with one set of records, one schedule and one objective.

    Attributes:
      name: shown on the screen.
      terms: the loss terms of a batch, by name; their sum is minimised.
      epochs: over the records.
      learning_rate: at the start.
      schedule: of the learning rate, a name of `optim.SCHEDULES`.
      milestones: fractions of the stage at which the `step` schedule decays.
      decay: factor of the learning rate at each milestone.
      warmup: epochs at the start in which the learning rate rises linearly to its schedule's value.
      records: `task`: the images of the new classes and the exemplars; `all`: all images of the
        classes seen (upper bound); `memory`: the exemplars of all classes seen, the new ones
        included.
      holdout: fraction of the exemplars of each old class that is held out, with as many images of
        each new class; only that of a task's first stage is used.
      replay_batch_size: exemplars added to every batch; 0 draws them together with the new images.
      replay: of which classes these are; `all` adds images of the new classes, chosen at random, as
        many as they get exemplars.
      teacher: whose outputs the terms get as the teacher's: `previous` is the model after the
        previous task, `start` the model at the start of the stage.
      trainable: prefixes of the paths of the trained parameters, such as `head/weight`. The other
        parameters are not differentiated, and cost no backward pass.
      freeze_old_rows: whether the head's vectors of old classes are frozen.
      batch_norm: `train` uses the statistics of the batch and updates the running ones; `parts`
        does so twice, for the images of a batch without the exemplars that `replay_batch_size`
        adds, then for these, and excludes `turns`; `frozen` uses the running ones unchanged.
      turns: whether each image is trained on in its four quarter turns; see `Step.turns`.
      weight_decay: whether `config.train.weight_decay` acts.
      prepare: changes the model when the stage begins, None leaves it as it is. A teacher `start`
        is the model before.
      balances: whether the stage only corrects class imbalance, so that it is left out with a
        balanced loss.
    """

    name: str
    terms: Callable[[Step], Terms]
    epochs: int
    learning_rate: float
    schedule: str
    milestones: tuple[float, ...]
    decay: float
    warmup: int = 0
    records: Literal["task", "all", "memory"] = "task"
    holdout: float = 0.0
    replay_batch_size: int = 0
    replay: Literal["old", "all"] = "old"
    teacher: Literal["none", "previous", "start"] = "none"
    trainable: tuple[str, ...] = ("backbone", "head")
    freeze_old_rows: bool = False
    batch_norm: Literal["train", "parts", "frozen"] = "train"
    turns: bool = False
    weight_decay: bool = True
    prepare: Callable[[ModelState, TaskInfo, Probe], ModelState] | None = None
    balances: bool = False

    def __post_init__(self) -> None:
        if self.turns and self.batch_norm == "parts":
            raise ValueError(f"stage {self.name} has turns and batch_norm='parts': choose one")

    def balanced_finetuning(self, **changes: Any) -> Stage:
        """Make a stage on the memory, which has all classes in equal numbers, from this stage.

        Args:
          **changes: attributes to change.
        """
        balanced = dataclasses.replace(
            self,
            name="balanced fine-tuning",
            records="memory",
            replay_batch_size=0,
            warmup=0,
            freeze_old_rows=False,
            balances=True,
        )
        return dataclasses.replace(balanced, **changes)

    @property
    def head_only(self) -> bool:
        """Whether only the head is trained."""
        return all(path.startswith("head") for path in self.trainable)

    def split(self, params: Params) -> tuple[Params, Params]:
        """Split parameters into the trained and the frozen ones.

        Raises:
          ValueError: a prefix in `trainable` that no parameter has.
        """
        flat = traverse_util.flatten_dict(params, sep="/")
        moves = {path: path.startswith(self.trainable) for path in flat}
        unknown = [p for p in self.trainable if not any(path.startswith(p) for path in flat)]
        if unknown:
            raise ValueError(f"no parameter is called {unknown[0]}: there are {', '.join(flat)}")
        parts = ({p: v for p, v in flat.items() if moves[p] == wanted} for wanted in (True, False))
        trained, frozen = (traverse_util.unflatten_dict(part, sep="/") for part in parts)
        return trained, frozen


def join(trained: Params, frozen: Params) -> Params:
    """Merge the two parts of `Stage.split`."""
    flat: dict[str, jax.Array] = {
        **traverse_util.flatten_dict(trained, sep="/"),
        **traverse_util.flatten_dict(frozen, sep="/"),
    }
    joined: dict[str, Any] = traverse_util.unflatten_dict(flat, sep="/")
    return joined
