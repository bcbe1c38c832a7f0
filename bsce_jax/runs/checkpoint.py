"""Checkpoints: everything a run needs to resume, verified when they are opened."""

import concurrent.futures
import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Sharding
from orbax.checkpoint.options import MultiprocessingOptions

from bsce_jax import hosts
from bsce_jax.errors import UserError
from bsce_jax.methods import ModelState
from bsce_jax.runs import seal

SCHEMA = 2
ARRAYS = ("model", "teacher", "training")  # the parts that are arrays


@dataclasses.dataclass(frozen=True)
class Progress:
    """The position of a run: all of its state except arrays on devices.

    Attributes:
      task: number of the current task.
      stage: number of the current stage of the task.
      step: steps done in this stage.
      total_steps: optimiser steps done in the run.
      exemplars: records in memory, class by class in order of arrival, best first.
      history: `exemplars` as it was after each finished task.
      meter: sums of the metrics over the current epoch, by name.
      timing: of each finished task: seconds by kind of work, and optimiser steps.
      clock: the same for the current task.
      log_bytes: length of metrics.jsonl; it is truncated to this length on resuming.
      log_digest: SHA-256 of metrics.jsonl.
    """

    task: int = 0
    stage: int = 0
    step: int = 0
    total_steps: int = 0
    exemplars: tuple[tuple[int, ...], ...] = ()
    history: tuple[tuple[tuple[int, ...], ...], ...] = ()
    meter: dict[str, float] = dataclasses.field(default_factory=dict)
    timing: tuple[dict[str, float], ...] = ()
    clock: dict[str, float] = dataclasses.field(default_factory=dict)
    log_bytes: int = 0
    log_digest: str = hashlib.sha256().hexdigest()

    @property
    def between_tasks(self) -> bool:
        """Whether the current task has not begun."""
        return self.stage == 0 and self.step == 0


class Checkpoints:
    """The checkpoints of one run, of which the newest two are kept.

    A checkpoint has separate parts, so that the model can be read alone: the model, the teacher,
    the training (the states of the optimiser and the loss) and the progress. It is valid once it is
    sealed: on disk, with a checksum of each file. Opening removes the checkpoints that are newer
    than the newest intact one: those without a seal, and those that do not match it. Saving runs in
    the background; leaving the context waits for it.

    Args:
      folder: of the checkpoints.
      identity: of the run, kept in each checkpoint.
      sharding: of restored arrays.
      say: called with a line of text for each damaged checkpoint that is removed.
      shared: whether all processes of the run use this folder; otherwise each has a copy.
      sealed: called once a checkpoint is sealed, in another thread.

    Raises:
      UserError: all sealed checkpoints are damaged.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        identity: Mapping[str, Any],
        sharding: Sharding,
        say: Callable[[str], None] = lambda text: None,
        shared: bool = True,
        sealed: Callable[[], None] = lambda: None,
    ):
        self._folder = pathlib.Path(os.path.abspath(folder))
        handlers = {name: ocp.StandardCheckpointHandler() for name in ARRAYS}
        if hosts.is_main() or not shared:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._remove_damaged(say)
        hosts.barrier("checkpoints opened")
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=_options(),
            item_handlers={**handlers, "progress": ocp.JsonCheckpointHandler()},
        )
        self._identity = dict(identity)
        self._sharding = sharding
        self._sealed = sealed
        self._sealer = concurrent.futures.ThreadPoolExecutor(1)
        self._sealing: concurrent.futures.Future[None] | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._wait()
        finally:
            self._sealer.shutdown()
            self._manager.close()

    @property
    def saved(self) -> bool:
        """Whether there is a checkpoint."""
        return self._manager.latest_step() is not None

    def save(
        self,
        progress: Progress,
        model: ModelState,
        teacher: ModelState | None = None,
        training: Any = None,
    ) -> None:
        """Save a position, which only the main process does.

        Args:
          progress: the position.
          model: the model there.
          teacher: of the current task, None for none.
          training: the training state of the current stage, any pytree of arrays; None between
            tasks.
        """
        if not hosts.is_main():
            return
        self._wait()
        arrays = {"model": _as_dict(model)}
        if teacher is not None:
            arrays["teacher"] = _as_dict(teacher)
        if training is not None:
            arrays["training"] = training
        parts = {name: ocp.args.StandardSave(_own(tree)) for name, tree in arrays.items()}
        record = {
            "schema": SCHEMA,
            "identity": self._identity,
            "progress": dataclasses.asdict(progress),
        }
        number = (self._manager.latest_step() or 0) + 1
        args = ocp.args.Composite(progress=ocp.args.JsonSave(record), **parts)
        self._manager.save(number, args=args)
        self._sealing = self._sealer.submit(self._seal, number)

    def latest(self) -> tuple[Progress, dict[str, Any]] | None:
        """Read the newest position and the identity of its run; None if nothing was saved yet.

        Raises:
          UserError: another version of this package wrote it.
        """
        number = self._manager.latest_step()
        if number is None:
            return None
        args = ocp.args.Composite(progress=ocp.args.JsonRestore())
        record = self._manager.restore(number, args=args).progress
        if record.get("schema") != SCHEMA:
            raise UserError(
                f"{self._folder} was written by another version of bsce_jax (schema "
                f"{record.get('schema')}, here {SCHEMA}): go on with that one, or choose another "
                "--workdir"
            )
        fields = record["progress"]
        for name in ("exemplars", "history", "timing"):
            fields[name] = _as_tuples(fields[name])
        return Progress(**fields), record["identity"]

    def model(self) -> ModelState:
        """Read the model of the newest position."""
        return ModelState(**self._restore("model", self._shapes("model")))

    def teacher(self) -> ModelState:
        """Read the teacher of the newest position."""
        return ModelState(**self._restore("teacher", self._shapes("teacher")))

    def training(self, like: Any) -> Any:
        """Read the training of the newest position, with the structure of `like`."""
        return self._restore("training", jax.eval_shape(lambda: like))

    def _shapes(self, part: str) -> Any:
        """Read the shapes of the saved arrays, as nested dicts."""
        return self._manager.item_metadata(self._manager.latest_step())[part]

    def _restore(self, part: str, shapes: Any) -> Any:
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._sharding), shapes
        )
        args = ocp.args.Composite(**{part: ocp.args.StandardRestore(target)})
        return self._manager.restore(self._manager.latest_step(), args=args)[part]

    def _seal(self, number: int) -> None:
        self._manager.wait_until_finished()
        seal.write(self._folder, str(number))
        seal.tidy(self._folder)
        self._sealed()

    def _wait(self) -> None:
        """Wait until the last checkpoint is sealed, and raise an error of saving it."""
        if self._sealing is not None:
            self._sealing.result()

    def _remove_damaged(self, say: Callable[[str], None]) -> None:
        """Remove the checkpoints that are newer than the newest one that matches its seal."""
        there = [path.name for path in self._folder.iterdir() if path.name.isdecimal()]
        damaged = []
        for name in sorted(there, key=int, reverse=True):
            if not seal.exists(self._folder, name):
                seal.remove(self._folder, name)  # saving was interrupted
                continue
            wrong = seal.mismatch(self._folder, name)
            if wrong is None:
                break
            damaged.append((name, wrong))
        else:
            if damaged:
                name, wrong = damaged[0]
                raise UserError(
                    f"no checkpoint in {self._folder} is whole ({wrong}): remove the run's folder "
                    "to start again"
                )
        for name, wrong in damaged:
            say(f"checkpoint {name} is damaged ({wrong}): going on from the one before")
            seal.remove(self._folder, name)


def _options() -> ocp.CheckpointManagerOptions:
    """Make the options of a process, which waits for no other."""
    if hosts.count() == 1:
        return ocp.CheckpointManagerOptions(max_to_keep=2)
    this = jax.process_index()
    alone = MultiprocessingOptions(
        primary_host=this, active_processes={this}, barrier_sync_key_prefix=f"process_{this}"
    )
    return ocp.CheckpointManagerOptions(max_to_keep=2, create=False, multiprocessing_options=alone)


def _own(tree: Any) -> Any:
    """Fetch replicated arrays of several processes, of which orbax would save a share in each."""
    return tree if hosts.count() == 1 else jax.tree.map(np.asarray, tree)


def _as_dict(model: ModelState) -> dict[str, Any]:
    return {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(v) for v in value) if isinstance(value, list) else value
