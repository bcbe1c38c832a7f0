"""A run in a folder: begun, resumed, or found finished."""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from bsce_jax import hosts
from bsce_jax.callbacks import CALLBACKS, Callback
from bsce_jax.data import Dataset
from bsce_jax.errors import UserError, using
from bsce_jax.runs import exemplars, home, known, log, predictions, results
from bsce_jax.runs.checkpoint import Checkpoints, Progress
from bsce_jax.runs.folder import Claim, claimed, write_config
from bsce_jax.runs.identity import identity, refuse_another
from bsce_jax.runs.model import has_model
from bsce_jax.training import mesh as mesh_lib
from bsce_jax.training.display import Display
from bsce_jax.training.overview import overview
from bsce_jax.training.problem import Problem
from bsce_jax.training.signals import StopRequest
from bsce_jax.training.tasks import TaskLoop
from bsce_jax.training.trainer import Trainer


def run(
    config: ConfigDict,
    folder: str | os.PathLike[str],
    dataset: Dataset | None = None,
    callback: Callback | None = None,
) -> dict[str, Any]:
    """Train a config task by task in a folder, or resume the run that the folder has.

    Args:
      config: from a config file.
      folder: the folder of the run, local or gs://BUCKET/RUN; the README lists its contents.
      dataset: images of your own; None for the data set that the config names.
      callback: called in the main process with each record that is logged, a dict as in
        `metrics.jsonl`; None for the one that the config names. Its errors end the run. A run that
        resumes trains again what it did after its last checkpoint, and sends these records again.

    Returns:
      The contents of `results.json`; an empty dict in other processes than the main one.

    Raises:
      UserError: an invalid config, or a folder that has another run or is used by another process.
      NoSpace: the disk is full; the same call resumes the run once there is room.
      Unreachable: the bucket cannot be reached; likewise.
      Stopped: by SIGINT, SIGTERM or SIGHUP, after saving a checkpoint; the same call resumes the
        run.
    """
    problem = Problem(config, dataset)
    display = Display(quiet=not hosts.is_main())
    with (
        mesh_lib.needing_memory(config.train.batch_size),
        home.opened(folder, display.line) as place,
        using(place.disk),
    ):
        path = place.folder
        found = known.without_added(path, problem.found, display.line)
        if found is not problem.found:
            problem = Problem(config, found)
        this = identity(config, problem.dataset, problem.start)
        hosts.check_same("config or data", json.dumps(this))
        # Images are read before the folder is made: one that cannot be read leaves nothing behind.
        # A finished run needs none.
        trainer = None if results.read(path) else Trainer(problem)
        with (
            _claimed(path, config, display) as claim,
            display,
            Checkpoints(
                path / "checkpoints",
                this,
                mesh_lib.replicated(mesh_lib.make_mesh()),
                display.line,
                place.shared,
                place.keep_checkpoints,
            ) as checkpoints,
            StopRequest() as stop,
        ):
            progress = Progress()
            if saved := checkpoints.latest():
                progress, that = saved
                refuse_another(path, that, this, problem.found)
            elif problem.extension:
                progress = problem.extension.begin(path, hosts.is_main() or not place.shared)
                hosts.barrier("extended")
            if hosts.is_main():
                write_config(path, config)
            if damage := log.damage(path, progress.log_bytes, progress.log_digest):
                display.line(damage)
            if progress.task == problem.scenario.num_tasks and _has_all(path):
                return _finished(path, problem, progress, display)
            for task in range(progress.task):
                predictions.read(path, task)  # find missing files before training
            trainer = trainer or Trainer(problem)
            hosts.barrier("opened")  # before the main process alters what the others have read
            if hosts.is_main():
                known.write(path, problem.found)
            for text in overview(trainer):
                display.line(text)
            with _log(path, config, progress, callback) as entries:
                loop = TaskLoop(
                    trainer, place, claim, progress, checkpoints, entries, stop, display
                )
                return loop.run()


def _has_all(folder: pathlib.Path) -> bool:
    """Tell whether a finished run has what is made from its images: the model, the exemplars."""
    try:
        exemplars.read(folder)
    except UserError:
        return False
    return has_model(folder)


@contextlib.contextmanager
def _claimed(folder: pathlib.Path, config: ConfigDict, display: Display) -> Iterator[Claim | None]:
    """Lock the folder, which only the main process does."""
    if hosts.is_main():
        with claimed(folder, config, display.line) as claim:
            hosts.barrier("claimed")
            yield claim
    else:
        hosts.barrier("claimed")
        yield None


@contextlib.contextmanager
def _log(
    folder: pathlib.Path, config: ConfigDict, progress: Progress, callback: Callback | None
) -> Iterator[log.Log | None]:
    """Open the log, which only the main process does."""
    if hosts.is_main():
        callback = callback or CALLBACKS[config.runtime.callback](config, folder)
        with log.Log(folder, progress.log_bytes, progress.total_steps, callback) as entries:
            yield entries
    else:
        yield None


def _finished(
    folder: pathlib.Path, problem: Problem, progress: Progress, display: Display
) -> dict[str, Any]:
    """Return the results of a finished run; write them again if they are not as written."""
    if hosts.is_main():
        parts = (
            *(folder, problem.config, problem.dataset, problem.scenario, progress),
            problem.sizes(len(progress.history)),
        )
        try:
            right = results.confirm(*parts)
        except UserError as error:  # predictions were lost: results.json is all that is left
            if results.read(folder) is None:
                raise
            display.line(str(error))
        else:
            if not right:
                display.line("results.json is missing or not as it was written: writing it again")
                results.write(*parts)
        display.line(f"{folder} is finished already")
    hosts.barrier("confirmed")
    return results.read(folder) or {} if hosts.is_main() else {}
