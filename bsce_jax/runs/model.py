"""The files of a run's model: its weights, and what is needed to use them.

RUN/model/model.json      what is needed to use the weights: classes, preprocessing, config
RUN/model/task_04.npz     the weights after a task, one array for each parameter
"""

import hashlib
import json
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from bsce_jax.data import Dataset, FittedSource
from bsce_jax.data.source import CENTRAL, WHOLE
from bsce_jax.errors import UserError
from bsce_jax.files import MALFORMED, write_atomically, write_json
from bsce_jax.methods import ModelState
from bsce_jax.scenario import Scenario

SCHEMA = 3


def write_model(
    folder: pathlib.Path,
    config: ConfigDict,
    dataset: Dataset,
    scenario: Scenario,
    task: int,
    model: ModelState,
    class_means: np.ndarray | None,
) -> None:
    """Write the model of a finished task.

    Args:
      folder: of the run.
      config: of the run.
      dataset: that it was trained on; its preprocessing, class names and identity are saved.
      scenario: the classes, in order of arrival.
      task: number of the task.
      model: after the task.
      class_means: [seen, D] for predictions by nearest class mean, None without exemplars.
    """
    weights = f"task_{task:02d}.npz"
    arrays = _flat({"params": model.params, "batch_stats": model.batch_stats, "extra": model.extra})
    if class_means is not None:
        arrays["class_means"] = class_means
    place = folder / "model"
    write_atomically(place / weights, lambda f: np.savez(f, allow_pickle=False, **arrays))
    description = {
        "schema": SCHEMA,
        "task": task,
        "weights": weights,
        "class_names": list(dataset.class_names),
        "tasks": [list(labels) for labels in scenario.tasks],
        "image_shape": list(dataset.image_shape),
        "fit": dataset.test.fit if isinstance(dataset.test, FittedSource) else WHOLE,
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        "dataset": dataset.name,
        "data_identity": dataset.identity,
        "config": json.loads(config.to_json()),
    }
    with open(place / weights, "rb") as f:
        description["weights_sha256"] = hashlib.file_digest(f, "sha256").hexdigest()
    write_json(place / "model.json", {**description, "sha256": digest(description)})
    if config.runtime.keep_models == "last":
        for path in place.glob("task_*.npz"):
            if path.name != weights:
                path.unlink()


def has_model(folder: pathlib.Path) -> bool:
    """Tell whether the folder of a run has a model, with description and weights as written."""
    try:
        description = read_description(folder)
        return _as_written(folder / "model" / description["weights"], description)
    except (OSError, UserError):
        return False


def read_description(folder: pathlib.Path) -> dict[str, Any]:
    """Read `model.json`.

    Raises:
      UserError: it is missing or damaged.
    """
    path = folder / "model" / "model.json"
    try:
        description = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"no model in {folder}: has the run finished a task?") from None
    except (OSError, RecursionError, ValueError) as error:  # of JSON and of UTF-8
        raise UserError(f"cannot read {path}: {error}") from error
    if not isinstance(description, dict) or description.get("schema") != SCHEMA:
        raise UserError(
            f"{path} does not describe a model of schema {SCHEMA}: the run's training command "
            "writes it anew"
        )
    if description.pop("sha256", None) != digest(description):
        raise UserError(f"{path} is not as it was written")
    return description


def check_description(description: Mapping[str, Any]) -> None:
    """Check the contents of `model.json`, apart from the config's fields.

    Raises:
      UserError: a key that is missing or has another kind of value.
    """
    checks: dict[str, Callable[[Any], bool]] = {
        "class_names": lambda names: _all(names, str),
        "tasks": lambda tasks: (
            _all(tasks, list)
            and _all(labels := [label for task in tasks for label in task], int)
            and len(set(labels)) == len(labels) > 1
            and all(0 <= label < len(description["class_names"]) for label in labels)
        ),
        "task": lambda task: type(task) is int and 0 <= task < len(description["tasks"]),
        "weights": lambda name: isinstance(name, str) and pathlib.Path(name).name == name,
        "weights_sha256": lambda digest: isinstance(digest, str),
        "image_shape": lambda shape: (
            _all(shape, int) and len(shape) == 3 and all(0 < n <= 2**16 for n in shape)
        ),
        "mean": lambda mean: _all(mean, float) and len(mean) == description["image_shape"][2],
        "std": lambda std: (
            _all(std, float) and len(std) == description["image_shape"][2] and min(std) > 0
        ),
        "fit": lambda name: name in (WHOLE, CENTRAL),
        "data_identity": lambda identity: isinstance(identity, str),
        "config": lambda config: isinstance(config, dict),
    }
    for key, is_right in checks.items():  # in this order: some look at the keys before
        if not is_right(description.get(key)):
            raise UserError(f"{key} is missing or not what a run writes")


def read_weights(
    folder: pathlib.Path, description: Mapping[str, Any], name: str, shapes: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Read the arrays of a model by their paths.

    Args:
      folder: of the run.
      description: of the newest model.
      name: of the file.
      shapes: what each array has to be; there may be no class means.

    Raises:
      UserError: the file is missing, damaged, or not the one that the description is about.
    """
    place = folder / "model"
    weights = place / name
    if not weights.exists():
        there = ", ".join(sorted(p.stem for p in place.glob("task_*.npz"))) or "none"
        raise UserError(f"no {weights}: there is {there}; see config.runtime.keep_models")
    try:
        with open(weights, "rb") as f, np.load(f) as archive:
            flat = {name: archive[name] for name in archive.files}
    except MALFORMED as error:
        raise UserError(f"{weights} is damaged") from error
    optional = {"class_means"} - flat.keys()  # the run kept no exemplars
    for path in sorted((shapes.keys() | flat.keys()) - optional):
        there, right = (_shape(named.get(path)) for named in (flat, shapes))
        if there != right:
            raise UserError(f"{weights} is damaged: {path} is {there}, {right} is right")
    if name == description.get("weights") and not _as_written(weights, description):
        raise UserError(f"{weights} is not the file that {place / 'model.json'} describes")
    return flat


def digest(description: Mapping[str, Any]) -> str:
    """Sum up a description without its `sha256`."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _as_written(weights: pathlib.Path, description: Mapping[str, Any]) -> bool:
    with open(weights, "rb") as f:
        return bool(hashlib.file_digest(f, "sha256").hexdigest() == description["weights_sha256"])


def _all(values: Any, kind: type) -> bool:
    """Tell whether a JSON value is a list of things of a kind, numbers being finite."""
    if not isinstance(values, list) or any(type(value) is not kind for value in values):
        return False
    return kind is not float or all(map(math.isfinite, values))


def _shape(array: Any) -> str:
    return "missing" if array is None else f"{array.dtype} {list(array.shape)}"


def _flat(tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
    flat = traverse_util.flatten_dict(tree, sep="/")
    return {path: np.asarray(value) for path, value in flat.items()}
