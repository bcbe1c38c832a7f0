"""Extending a finished run: new classes become its next tasks, without the old training images.

The run that extends another begins where that one ended. It has the other's tasks, model,
exemplars, predictions and log, and trains the tasks that follow.
"""

import dataclasses
import hashlib
import itertools
import os
import pathlib
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from bsce_jax import config as config_lib
from bsce_jax.data import Dataset
from bsce_jax.data.assembled import Piece, assemble
from bsce_jax.errors import UserError
from bsce_jax.files import write_atomically
from bsce_jax.methods import ModelState
from bsce_jax.runs import exemplars, predictions
from bsce_jax.runs.bucket import Local
from bsce_jax.runs.checkpoint import Progress
from bsce_jax.runs.saved import SavedRun
from bsce_jax.runs.start import digest_of
from bsce_jax.scenario import Scenario, explicit_tasks


class Extension:
    """A finished run that another one extends.

    Args:
      folder: of the finished run, local or gs://BUCKET/RUN.

    Attributes:
      run: its model.
      tasks: how many it has.
      identity: a digest of its model.

    Raises:
      UserError: it is not finished, or its model, results or exemplars are missing or damaged.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self._files = Local(
            folder, lambda name: not name.startswith(("checkpoints/", "tensorboard/"))
        )
        self.run = SavedRun.open(self._files.folder)
        self.tasks = len(self.run.tasks)
        if self.run.task + 1 < self.tasks:
            raise UserError(
                f"scenario.extends is {folder}, which has finished {self.run.task + 1} of "
                f"{self.tasks} tasks: finish it first, with its own command"
            )
        value = self.run.results
        if value.get("evaluated_on") == "validation":
            raise UserError(
                f"{folder} was evaluated on validation images, and a run that extends it would be "
                "on test images: extend a run with dataset.validation=0"
            )
        try:
            self._history = _tuples(value["memory"]["indices"])
            self._timing = tuple(value["timing"]["tasks"])
            self._steps = int(value["timing"]["steps"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{self.run.folder / 'results.json'} is damaged: the run's command writes it anew"
            ) from error
        self._exemplars, self._counts = exemplars.read(self.run.folder)
        self.identity = digest_of(self.run)

    @property
    def learned(self) -> tuple[int, ...]:
        """The labels of the classes that the finished run has learned, in order of arrival."""
        return tuple(label for task in self.run.tasks for label in task)

    @property
    def remembers(self) -> bool:
        """Whether the finished run has exemplars."""
        return any(self._counts)

    def check(self, config: ConfigDict) -> None:
        """Check that a run has the same backbone and kind of head, and predicts alike.

        Raises:
          UserError: it does not.
        """
        there, here = (
            {
                "model.name": of.model.name,
                "the head": config_lib.make_method(of).head,
                "model.flip": of.model.get("flip", False),  # not in configs of earlier versions
            }
            for of in (self.run.config, config)
        )
        for what, then in there.items():
            if then != here[what]:
                raise UserError(
                    f"{self.run.folder} cannot go on with this config: {what} is {then} there and "
                    f"{here[what]} here"
                )

    def dataset(self, found: Dataset) -> Dataset:
        """Put together the images of the run: the old exemplars, and the images of new classes.

        Classes are recognised by name. Old ones keep their labels, new ones get the labels that
        follow. Old training images that were found are left out.

        Args:
          found: the data set as it is now; old classes may be missing.

        Raises:
          UserError: images of another shape, or no new class.
        """
        if found.image_shape != self.run.image_shape:
            raise UserError(
                f"{found.name} has images of the shape {list(found.image_shape)}, and "
                f"{self.run.folder} was trained on {list(self.run.image_shape)}"
            )
        names = list(self.run.label_names)
        names += [name for name in found.class_names if name not in names]
        label = np.array([names.index(name) for name in found.class_names])
        old = np.isin(label, self.learned)
        if not (~old[found.train.labels]).any():
            raise UserError(
                f"{found.name} has no class that {self.run.folder} has not learned already"
            )
        new = np.flatnonzero(~old[found.train.labels])
        kept = self._exemplars
        train = [
            Piece(kept, np.arange(len(kept.labels)), kept.labels),
            Piece(found.train, new, label[found.train.labels[new]]),
        ]
        every = np.arange(len(found.test.labels))
        test = [Piece(found.test, every, label[found.test.labels])]
        return Dataset(
            name=found.name,
            train=assemble(train),
            test=assemble(test),
            class_names=tuple(names),
            mean=self.run.mean,
            std=self.run.std,
        )

    def scenario(self, dataset: Dataset, tasks: str) -> Scenario:
        """List the tasks of the run: the old ones, and those of the new classes.

        Args:
          dataset: of `dataset`.
          tasks: the new ones, see `explicit_tasks`; "" for one of all new classes.

        Raises:
          UserError: `tasks` is not valid, or lists a class that was learned already.
        """
        if not tasks:
            new = set(dataset.train.labels.tolist()) - set(self.learned)
            return Scenario((*self.run.tasks, tuple(sorted(new))))
        more = explicit_tasks(tasks, dataset.class_names)
        if again := set(more.class_order) & set(self.learned):
            name = dataset.class_names[min(again)]
            raise UserError(f"scenario.tasks lists class {name}, which was learned already")
        return Scenario((*self.run.tasks, *more.tasks))

    def begin(self, folder: pathlib.Path, write: bool = True) -> Progress:
        """Copy the predictions and the log of the finished run into the folder of the new one.

        Args:
          folder: of the new run.
          write: whether this process writes there.

        Returns:
          The position between the tasks of both.

        Raises:
          UserError: a prediction file is missing or damaged.
        """
        try:
            log = (self.run.folder / "metrics.jsonl").read_bytes()
        except OSError as error:
            raise UserError(
                f"cannot read {self.run.folder / 'metrics.jsonl'}: {error.strerror}"
            ) from error
        outcomes = [predictions.read(self.run.folder, task) for task in range(self.tasks)]
        if write:
            write_atomically(folder / "metrics.jsonl", lambda f: f.write(log))
            for task, outcome in enumerate(outcomes):
                predictions.write(folder, task, *outcome)
        ends = np.cumsum([0, *self._counts]).tolist()
        return Progress(
            task=self.tasks,
            total_steps=self._steps,
            exemplars=tuple(tuple(range(*ends)) for ends in itertools.pairwise(ends)),
            history=self._history,
            timing=self._timing,
            log_bytes=len(log),
            log_digest=hashlib.sha256(log).hexdigest(),
        )

    def model(self, initial: ModelState) -> ModelState:
        """Put the finished run's model into a larger one.

        The leading axis of an array that depends on the classes is the class in order of arrival,
        so an old array is the first block of the new one. The rest of it keeps its initial values.

        Args:
          initial: with all classes, on devices.

        Raises:
          UserError: the arrays of the finished run are no blocks of these.
        """
        arrays = dataclasses.asdict(initial)
        there = self.run.weights
        flat = traverse_util.flatten_dict(arrays, sep="/")
        grown: dict[str, Any] = {}
        for name, array in flat.items():
            if name not in there or not _is_block(there[name], array):
                raise UserError(
                    f"{self.run.folder} has another network or method than this config: "
                    f"{name} does not fit"
                )
            block = tuple(slice(0, size) for size in there[name].shape)
            whole = np.array(array)
            whole[block] = np.asarray(there[name])
            grown[name] = jax.device_put(whole, array.sharding)
        tree = traverse_util.unflatten_dict(grown, sep="/")
        return ModelState(**{part: tree.get(part, {}) for part in arrays})


def _is_block(old: jax.Array, new: jax.Array) -> bool:
    fits = all(a <= b for a, b in zip(old.shape, new.shape, strict=False))
    return old.ndim == new.ndim and old.dtype == new.dtype and fits


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
