"""`results.json`: the results of a run, in a schema that other programs rely on."""

import importlib.metadata
import json
import pathlib
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from bsce_jax import metrics
from bsce_jax.data import Dataset
from bsce_jax.errors import UserError
from bsce_jax.files import write_json
from bsce_jax.runs import predictions
from bsce_jax.runs.checkpoint import Progress
from bsce_jax.scenario import Scenario

SCHEMA = 2
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "ml-collections", "numpy")


def write(
    folder: pathlib.Path,
    config: ConfigDict,
    dataset: Dataset,
    scenario: Scenario,
    progress: Progress,
    model: Mapping[str, Any],
) -> dict[str, Any]:
    """Write `results.json` from the predictions of all finished tasks, and return it.

    Args:
      folder: of the run.
      config: of the run.
      dataset: that it is trained on.
      scenario: its tasks.
      progress: its position.
      model: the sizes of its model, of `Problem.sizes`.

    Raises:
      UserError: a prediction file is missing or damaged.
    """
    value = _make(folder, config, dataset, scenario, progress, model)
    write_json(folder / "results.json", value)
    return value


def confirm(
    folder: pathlib.Path,
    config: ConfigDict,
    dataset: Dataset,
    scenario: Scenario,
    progress: Progress,
    model: Mapping[str, Any],
) -> bool:
    """Tell whether the `results.json` of a finished run is what its predictions give.

    Raises:
      UserError: a prediction file is missing or damaged.
    """
    value = _make(folder, config, dataset, scenario, progress, model)
    there = read(folder) or {}
    measured = ("peak_memory", "environment")  # of the process that wrote it
    same = all(there.get(name) == value[name] for name in value.keys() - set(measured))
    return same and there.keys() == value.keys()


def _make(
    folder: pathlib.Path,
    config: ConfigDict,
    dataset: Dataset,
    scenario: Scenario,
    progress: Progress,
    model: Mapping[str, Any],
) -> dict[str, Any]:
    cnn, nme = [], []
    for task in range(len(progress.history)):
        labels, cnn_top5, nme_top5 = predictions.read(folder, task)
        cnn.append((labels, cnn_top5))
        nme.append((labels, nme_top5))
    # without exemplars there are no class means and no NME predictions
    has_means = all((top5[:, 0] >= 0).all() for _, top5 in nme)
    try:
        figures = metrics.summarize(cnn, scenario.tasks)
        by_means = metrics.summarize(nme, scenario.tasks) if has_means else None
    except ValueError as error:
        raise UserError(
            f"{folder / 'predictions'} is damaged ({error}): train again, in another --workdir"
        ) from error
    value = {
        "schema": SCHEMA,
        "method": config.method.name,
        "loss": config.loss.name,
        "seed": config.seed,
        "dataset": dataset.name,
        "evaluated_on": evaluated_on(config),
        "flip": config.model.flip,
        "class_names": list(dataset.class_names),
        "class_order": list(scenario.class_order),
        "tasks": [list(task) for task in scenario.tasks],
        "training_images": np.bincount(
            dataset.train.labels, minlength=len(dataset.class_names)
        ).tolist(),
        "cnn": figures,
        "nme": by_means,
        "memory": {
            "policy": config.memory.policy,
            "size": config.memory.size,
            "selection": config.memory.selection,
            "indices": progress.history,
        },
        "model": dict(model),
        "timing": _timing(progress),
        "peak_memory": peak_memory(),
        "environment": environment(),
    }
    # as read from the file, where tuples are lists
    written: dict[str, Any] = json.loads(json.dumps(value))
    return written


def evaluated_on(config: ConfigDict) -> str:
    """Name the images that a run is evaluated on: "test", or "validation"."""
    return "validation" if config.dataset.validation else "test"


def column_name(kind: str, flip: bool) -> str:
    """Name predictions in tables: "CNN" or "NME", with "+flip" if they are of two views."""
    return kind.upper() + "+flip" * flip


def read(folder: pathlib.Path) -> dict[str, Any] | None:
    """Read the `results.json` of a run; None if it is missing or not what `write` writes."""
    path = folder / "results.json"
    try:
        value = json.loads(path.read_bytes())
    except (OSError, RecursionError, ValueError):  # of JSON and of UTF-8
        return None
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        return None
    return value if is_whole(value) and isinstance(value.get("dataset"), str) else None


def is_finished(value: Mapping[str, Any]) -> bool:
    """Tell whether results, as `read` returns them, are those of all tasks."""
    return len(value["cnn"]["accuracy"]) == len(value["tasks"])


def is_whole(value: Any) -> bool:
    """Tell whether a JSON value has the method, the loss, the tasks and the figures of a run."""
    if not isinstance(value, dict):
        return False
    tasks = value.get("tasks")
    return (
        all(isinstance(value.get(name), str) for name in ("method", "loss"))
        and isinstance(tasks, list)
        and all(isinstance(task, list) for task in tasks)
        and _are_figures(value.get("cnn"), len(tasks))
        and (value.get("nme", "") is None or _are_figures(value.get("nme"), len(tasks)))
    )


def _are_figures(summary: Any, tasks: int) -> bool:
    """Tell whether a value has the figures of `metrics.summarize` for at most so many tasks."""
    if not isinstance(summary, dict):
        return False
    number = lambda x: type(x) in (int, float, type(None))
    columns: list[Any] = [summary.get(name) for name in ("accuracy", "old", "new")]
    return (
        all(isinstance(c, list) and all(map(number, c)) for c in columns)
        and len({len(c) for c in columns}) == 1
        and 0 < len(columns[0]) <= tasks
        and all(number(summary.get(n, "")) for n in ("average_incremental", "last", "forgetting"))
    )


COUNTS = ("steps", "head_steps", "saved_steps", "saved_head_steps")


def seconds(timing: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Add up the seconds of some tasks by kind of work; see `Progress.timing`."""
    kinds = dict.fromkeys(kind for task in timing for kind in task if kind not in COUNTS)
    return {kind: sum(task.get(kind, 0) for task in timing) for kind in kinds}


def _timing(progress: Progress) -> dict[str, Any]:
    """Add up the tasks' seconds, by kind of work, and optimiser steps.

    `steps` are all steps, `head_steps` those that trained the head alone. `finetuning_saved` are
    the steps of the method's balanced fine-tuning that a balanced loss left out.
    """
    steps, head_steps, saved, saved_head = (
        int(sum(task.get(name, 0) for task in progress.timing)) for name in COUNTS
    )
    return {
        "seconds": seconds(progress.timing),
        "steps": steps,
        "head_steps": head_steps,
        "finetuning_saved": {"steps": saved, "head_steps": saved_head},
        "tasks": progress.timing,
    }


def peak_memory() -> dict[str, int | None]:
    """Return the peak memory of this process, in bytes: on the fullest device, and on the host.

    The device's is None if the backend does not count it, as on CPUs.
    """
    counts = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [count["peak_bytes_in_use"] for count in counts if "peak_bytes_in_use" in count]
    # kilobytes, but bytes on macOS
    unit = 1 if sys.platform == "darwin" else 1024
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"device": max(peaks, default=None), "host": host}


def environment() -> dict[str, Any]:
    """Describe the environment: versions, devices, and the commit of the code, None without one."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "python": platform.python_version(),
        "versions": versions,
        "devices": [device.device_kind for device in jax.devices()],
        "git_commit": git_commit(pathlib.Path(__file__)),
    }


def git_commit(file: pathlib.Path) -> str | None:
    """Find the commit of the checkout that tracks a file.

    It is None without git, and for a file that is not tracked, such as one of an installed package.
    """
    git = ["git", "-C", str(file.parent)]
    try:
        tracked = [*git, "ls-files", "--error-unmatch", file.name]
        subprocess.run(tracked, capture_output=True, check=True)
        head = [*git, "rev-parse", "HEAD"]
        answer = subprocess.run(head, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()
