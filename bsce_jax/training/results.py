"""`results.json`: what a run found, in the shape that other programs rely on."""

import importlib.metadata
import json
import pathlib
import platform
import resource
import subprocess
import sys
from typing import Any

import jax

from bsce_jax import metrics
from bsce_jax.files import write_json
from bsce_jax.memory import steps_per_epoch
from bsce_jax.training.checkpoint import Progress
from bsce_jax.training.experiment import Experiment
from bsce_jax.training.workdir import read_predictions

SCHEMA = 1
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "ml-collections", "numpy")


def write(folder: pathlib.Path, experiment: Experiment, progress: Progress) -> dict[str, Any]:
    """Writes `results.json` from the predictions of all finished tasks, and returns it."""
    config, scenario = experiment.config, experiment.scenario
    cnn, nme = [], []
    for task in range(len(progress.history)):
        labels, cnn_top5, nme_top5 = read_predictions(folder, task)
        cnn.append((labels, cnn_top5))
        nme.append((labels, nme_top5))
    # without exemplars there are no class means, and nothing was predicted by them
    has_means = all((top5[:, 0] >= 0).all() for _, top5 in nme)
    value = {
        "schema": SCHEMA,
        "method": config.method.name,
        "loss": config.loss.name,
        "dataset": experiment.dataset.name,
        "class_order": list(scenario.class_order),
        "tasks": [list(task) for task in scenario.tasks],
        "cnn": metrics.summarize(cnn, scenario.tasks),
        "nme": metrics.summarize(nme, scenario.tasks) if has_means else None,
        "memory": {
            "policy": config.memory.policy,
            "size": config.memory.size,
            "selection": config.memory.selection,
            "indices": progress.history,
        },
        "timing": _timing(experiment, progress),
        "peak_memory": peak_memory(),
        "environment": environment(),
    }
    write_json(folder / "results.json", value)
    # as a reader finds it: lists for tuples
    written: dict[str, Any] = json.loads(json.dumps(value))
    return written


def read(folder: pathlib.Path) -> dict[str, Any] | None:
    """Reads the `results.json` of a run; None if it is not there, or not whole."""
    path = folder / "results.json"
    try:
        value: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return value


def _timing(experiment: Experiment, progress: Progress) -> dict[str, Any]:
    """Adds up what the tasks took: seconds by kind of work, and optimiser steps."""
    kinds = dict.fromkeys(kind for task in progress.timing for kind in task)
    totals = {kind: sum(task.get(kind, 0) for task in progress.timing) for kind in kinds}
    steps = totals.pop("steps")
    saved = _finetuning_saved(experiment, progress)
    return {
        "seconds": totals,
        "steps": steps,
        "finetuning_saved": {"steps": saved, "seconds": saved * totals["train"] / steps},
        "tasks": progress.timing,
    }


def _finetuning_saved(experiment: Experiment, progress: Progress) -> int:
    """Counts the steps of the balanced fine-tuning that the method was published with.

    0 where it was done. The seconds told with it are an estimate, at the measured pace.
    """
    published = type(experiment.method)().finetuning
    if published is None or experiment.method.finetuning is not None:
        return 0
    batch_size = experiment.config.train.batch_size
    kept = [sum(map(len, exemplars)) for exemplars in progress.history[1:]]
    return sum(published.epochs * steps_per_epoch(n, batch_size) for n in kept)


def peak_memory() -> dict[str, int | None]:
    """Says the most memory that this process has held, in bytes, on the fullest device and in all.

    The device's is None where the backend does not count it, as on CPUs.
    """
    counts = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [count["peak_bytes_in_use"] for count in counts if "peak_bytes_in_use" in count]
    # kilobytes, but on macOS
    unit = 1 if sys.platform == "darwin" else 1024
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"device": max(peaks, default=None), "host": host}


def environment() -> dict[str, Any]:
    """Names what a run ran on: versions, devices and the commit of the code, if it has one."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "python": platform.python_version(),
        "versions": versions,
        "devices": [device.device_kind for device in jax.devices()],
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    here = pathlib.Path(__file__).parent
    command = ["git", "-C", str(here), "rev-parse", "HEAD"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None  # no git, or installed outside a checkout
    return answer.stdout.strip()
