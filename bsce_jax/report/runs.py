"""Runs to report on, read from their folders; runs that differ only in their seeds form a group."""

import dataclasses
import json
import math
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bsce_jax import config as config_lib
from bsce_jax.errors import UserError, shown
from bsce_jax.runs import log, predictions, results
from bsce_jax.runs.bucket import Local, of_results
from bsce_jax.runs.saved import SavedRun

# the class order is drawn anew for each seed in many studies, so it separates no groups
SEEDS = ("seed", "scenario.class_order")
# the fields that a report cannot do without, and their types
NEEDED = {
    **dict.fromkeys(("method.name", "loss.name", "model.name", "train.augmentation"), str),
    **{"memory.policy": str, "memory.size": int},
}

# such runs do not compare with those on test images
VALIDATION = " (validation images)"


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A run with at least one finished task.

    Attributes:
      folder: of the run.
      config: the values that alter results by path, such as `train.epochs`; seeds too.
      dataset: its name, and that validation images of it were evaluated, if they were.
      class_names: in order of arrival, of all tasks.
      sizes: number of classes of each task, of later tasks too.
      finished: number of finished tasks.
      cnn: the figures of `metrics.summarize` for the network's own predictions.
      nme: likewise by nearest class mean, None without.
      exemplars: for each finished task, the number of exemplars of each class after it.
      training_images: of each class in order of arrival; None in a run of an older version.
      seconds: by kind of work.
      entries: of the log.
      outcome: after the newest finished task, the true and the predicted class of each test image,
        as positions in `class_names`, int [n] each; None if the file is damaged.
      norms: the mean length of the head's vectors of each class, [classes]; None without a model.
      missing: what could not be read, in words.
    """

    folder: str
    config: Mapping[str, Any]
    dataset: str
    class_names: Sequence[str]
    sizes: tuple[int, ...]
    finished: int
    cnn: Mapping[str, Any]
    nme: Mapping[str, Any] | None
    exemplars: Sequence[Sequence[int]]
    training_images: Sequence[int] | None
    seconds: Mapping[str, float]
    entries: Sequence[Mapping[str, Any]]
    outcome: tuple[np.ndarray, np.ndarray] | None
    norms: np.ndarray | None
    missing: Sequence[str]

    @property
    def seen(self) -> list[int]:
        """The number of classes seen after each finished task."""
        return np.cumsum(self.sizes[: self.finished]).tolist()

    @property
    def scenario(self) -> tuple[Any, ...]:
        """What runs must share for their accuracies to compare: the test images and the tasks."""
        return self.dataset, tuple(sorted(self.class_names)), self.sizes

    @property
    def is_complete(self) -> bool:
        """Whether all tasks are finished."""
        return self.finished == len(self.sizes)


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Runs that differ only in their seeds, and as many of whose tasks are finished.

    Attributes:
      name: of the method and the loss, and of what else separates it from other groups.
      runs: at least one.
    """

    name: str
    runs: Sequence[Run]

    @property
    def first(self) -> Run:
        """The first run, for what all of them share."""
        return self.runs[0]


@dataclasses.dataclass(frozen=True, eq=False)
class Scenario:
    """Groups whose accuracies compare.

    Attributes:
      name: data set and tasks, in words.
      groups: at least one.
    """

    name: str
    groups: Sequence[Group]

    @property
    def names(self) -> list[str]:
        """The names of the groups."""
        return [group.name for group in self.groups]

    @property
    def runs(self) -> list[Run]:
        """The runs of all groups."""
        return [run for group in self.groups for run in group.runs]


def read_all(folders: Sequence[pathlib.Path]) -> tuple[list[Run], list[str]]:
    """Read runs; one that is named twice counts once.

    Args:
      folders: at least one: of a run, or with folders of runs in it, as `--seeds` makes them;
        local or gs://BUCKET/RUN.

    Returns:
      The runs, and lines that say what is left out: runs without a finished task, and what could
      not be read of others.

    Raises:
      UserError: a folder without a run, a damaged run, or no run with a finished task.
    """
    found: list[Run] = []
    left_out: dict[str, list[pathlib.Path]] = {}
    copies = [Local(given, of_results) for given in dict.fromkeys(folders)]
    every = [folder for copy in copies for folder in _runs_in(copy.folder)]
    # of a bucket there may be two copies
    for folder in {shown(os.path.realpath(folder)): folder for folder in every}.values():
        run = read(folder)
        if run is not None:
            found.append(run)
        for what in ("no finished task",) if run is None else run.missing:
            left_out.setdefault(what, []).append(folder)
    notes = [f"Left out, {what}: {shown(', '.join(map(str, of)))}" for what, of in left_out.items()]
    if not found:
        raise UserError(f"no finished task in {', '.join(map(str, folders))}: nothing to report")
    return found, notes


def read(folder: pathlib.Path) -> Run | None:
    """Read a run; None if no task is finished.

    Raises:
      UserError: no run, or a damaged one.
    """
    config = _config(folder)
    value = results.read(folder)
    if value is None:
        if (folder / "results.json").exists():
            raise UserError(
                f"{folder / 'results.json'} is damaged or of another version: the run's training "
                "command writes it anew"
            )
        return None
    missing: list[str] = []
    try:
        labels = [label for task in value["tasks"] for label in task]
        position = {label: i for i, label in enumerate(labels)}
        finished = len(value["cnn"]["accuracy"])
        sizes = tuple(map(len, value["tasks"]))
        seen = np.cumsum(sizes)[:finished].tolist()
        exemplars = [[len(kept) for kept in task] for task in value["memory"]["indices"]]
        if len(position) != sum(sizes) or list(map(len, exemplars)) != seen:
            raise ValueError("a class twice, or other exemplars than classes")
        images = value.get("training_images")
        run = Run(
            folder=shown(str(folder)),
            config=config,
            dataset=value["dataset"] + VALIDATION * (value.get("evaluated_on") == "validation"),
            class_names=[str(value["class_names"][label]) for label in labels],
            sizes=sizes,
            finished=finished,
            cnn=_figures(value["cnn"], finished),
            nme=value["nme"] and _figures(value["nme"], finished),
            exemplars=exemplars,
            training_images=images and [int(images[label]) for label in labels],
            seconds={kind: _number(n) or 0.0 for kind, n in value["timing"]["seconds"].items()},
            entries=[_numbers(entry) for entry in log.read(folder)],
            outcome=_outcome(folder, finished - 1, position, seen[-1], missing),
            norms=_norms(folder, missing),
            missing=missing,
        )
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder / 'results.json'} is damaged: the run's training command writes it anew"
        ) from error
    return run


def scenarios(runs: Sequence[Run]) -> list[Scenario]:
    """Put runs into scenarios and groups, in the order of the runs."""
    by_scenario: dict[Any, list[Run]] = {}
    for run in runs:
        by_scenario.setdefault(run.scenario, []).append(run)
    return [Scenario(_describe(some[0]), _groups(some)) for some in by_scenario.values()]


def differences(groups: Sequence[Group]) -> dict[str, list[Any]]:
    """List the fields of the config in which groups differ: path to each group's value.

    A value is None where a group's method or loss does not have the field.
    """
    paths = {path: None for group in groups for path in group.first.config if path not in SEEDS}
    table = {path: [group.first.config.get(path) for group in groups] for path in paths}
    return {path: row for path, row in table.items() if any(x != row[0] for x in row)}


def _runs_in(folder: pathlib.Path) -> list[pathlib.Path]:
    """List the folder if it is a run's, or else the runs in it, seed_2 before seed_10."""
    if (folder / "config.json").is_file():
        return [folder]
    found = [path.parent for path in folder.glob("*/config.json")]
    if not found:
        raise UserError(f"no run in {folder}: no config.json in it, nor in a folder in it")
    digits = lambda path: [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", path.name)]
    return sorted(found, key=digits)


def _config(folder: pathlib.Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        values = config_lib.flat(json.loads(path.read_bytes()))
    except (AttributeError, OSError, RecursionError, ValueError):  # of JSON and of UTF-8
        values = {}
    if any(type(values.get(needed)) is not kind for needed, kind in NEEDED.items()):
        raise UserError(f"cannot read {path}: it is no config of a run")
    try:
        described = config_lib.fields(values["method.name"], values["loss.name"])
    except UserError:  # of a method or a loss that is not registered here
        return values
    with_defaults = {path: one.default for path, one in described.items()} | values
    counts = lambda path: (
        path == "model.init" or path not in described or described[path].alters_results
    )
    lists = lambda value: list(value) if isinstance(value, tuple) else value
    kept = {path: lists(value) for path, value in with_defaults.items() if counts(path)}
    # it has an earlier run's tasks; which one does not matter to seeds
    return {**kept, "scenario.extends": "a run" if values.get("scenario.extends") else ""}


def _figures(value: Mapping[str, Any], finished: int) -> dict[str, Any]:
    """Check the figures of `metrics.summarize` that a report uses.

    Raises:
      ValueError or TypeError: they are not numbers, or not of so many tasks.
    """
    made: dict[str, Any] = {
        name: _number(value[name]) for name in ("average_incremental", "last", "forgetting")
    }
    for name in ("accuracy", "old", "new"):
        made[name] = [_number(x) for x in value[name]]
    made["matrix"] = [[_number(x) for x in row] for row in value["matrix"]]
    if any(len(made[name]) != finished for name in ("accuracy", "old", "new", "matrix")):
        raise ValueError("figures of other tasks")
    if any(len(row) != finished for row in made["matrix"]):
        raise ValueError("the matrix is not square")
    return made


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if not math.isfinite(value):
        raise ValueError("a figure is not finite")
    return float(value)


def _numbers(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the kind of an entry of the log, and its numbers."""
    isnumber = lambda x: type(x) in (int, float) and math.isfinite(x)
    return {name: x for name, x in entry.items() if name == "kind" or isnumber(x)}


def _outcome(
    folder: pathlib.Path, task: int, position: Mapping[int, int], seen: int, missing: list[str]
) -> tuple[np.ndarray, np.ndarray] | None:
    try:
        labels, cnn, _ = predictions.read(folder, task)
        true, predicted = (
            np.array([position[label] for label in column.tolist()], int)
            for column in (labels, cnn[:, 0])
        )
        if max(*true, *predicted) >= seen:
            raise ValueError("a class that was not seen")
    except (LookupError, TypeError, UserError, ValueError):
        missing.append("no usable predictions for the confusion and the classes")
        return None
    return true, predicted


def _norms(folder: pathlib.Path, missing: list[str]) -> np.ndarray | None:
    """Compute the lengths of the head's vectors of the classes seen; a class may have several."""
    try:
        saved = SavedRun.open(folder)
    except UserError:
        missing.append("no usable model for the vectors of the head")
        return None
    # a head that is solved is used in place of the one that is trained
    names = [name for name in ("extra/main/ridge", "params/head/weight") if name in saved.weights]
    if not names:  # a head of one's own
        return None
    weight = np.asarray(saved.weights[names[0]])[: len(saved.class_names)]
    lengths = np.linalg.norm(weight, axis=-1)
    return lengths.reshape(len(lengths), -1).mean(axis=1)


def _groups(runs: Sequence[Run]) -> list[Group]:
    """Group runs of one scenario, and name the groups."""
    alike_runs: list[tuple[Any, list[Run]]] = []
    for run in runs:
        fields = {path: value for path, value in run.config.items() if path not in SEEDS}
        key = (fields, run.finished)
        own_group = next((some for other, some in alike_runs if other == key), None)
        if own_group is None:
            alike_runs.append((key, own_group := []))
        own_group.append(run)
    plain = [Group(_name(some[0]), some) for _, some in alike_runs]
    named = []
    for group in plain:
        alike = [other for other in plain if other.name == group.name]
        apart = differences(alike)
        own = alike.index(group)
        more = [f"{path.replace('.', ' ')} {row[own]}" for path, row in apart.items()]
        named.append(Group(", ".join([group.name, *more]), group.runs))
    return named


def _name(run: Run) -> str:
    name = f"{run.config['method.name']}, {run.config['loss.name']}"
    return name if run.is_complete else f"{name} ({run.finished} of {len(run.sizes)} tasks)"


def _describe(run: Run) -> str:
    base, *others = run.sizes
    if len(set(others)) > 1:
        tasks = "tasks of " + ", ".join(map(str, run.sizes)) + " classes"
    elif not others or base == others[0]:
        tasks = f"{len(run.sizes)} tasks of {base} classes"
    else:
        tasks = f"{base} classes, then {len(others)} tasks of {others[0]}"
    return f"{run.dataset}: {tasks}"
