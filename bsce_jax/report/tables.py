"""The tables of a report: one row for each observation, one column for each variable.

Each function takes the groups of one scenario and returns the rows. `mean` is over the runs of a
group, `deviation` the standard deviation over them (n - 1; None for a single run), and `low` and
`high` are the mean less and plus it. Percentages are in %.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bsce_jax import metrics
from bsce_jax.report.runs import Group, Run, differences

Rows = list[dict[str, Any]]
Values = Sequence[float | None]

EPOCH = {"task", "loss", "accuracy"}  # what the log has of an epoch
EPOCHS = 1000  # that are shown of a run, about

FIGURES = {
    "last": "last accuracy",
    "average_incremental": "average incremental",
    "forgetting": "forgetting",
    "old": "old classes",
    "new": "new classes",
}


def figures(groups: Sequence[Group]) -> Rows:
    """List the main figures, a row for each group and figure."""
    rows: Rows = []
    for group in groups:
        columns: dict[str, Values] = {
            title: [_last(run.cnn[name]) for run in group.runs] for name, title in FIGURES.items()
        }
        columns["NME average"] = [
            run.nme["average_incremental"] if run.nme else None for run in group.runs
        ]
        columns["minutes a run"] = [sum(run.seconds.values()) / 60 for run in group.runs]
        for title, values in columns.items():
            if moments := moments_of(values):
                of = {"runs": group.name, "seeds": len(group.runs), "figure": title}
                rows.append({**of, **moments})
    return rows


def summary(groups: Sequence[Group]) -> Rows:
    """List the main figures as text such as `87.04 ± 1.20`, a row for each group."""
    made: dict[str, dict[str, Any]] = {}
    columns = [*FIGURES.values(), "NME average", "minutes a run"]
    for row in figures(groups):
        empty = {"runs": row["runs"], "seeds": row["seeds"], **dict.fromkeys(columns, "-")}
        made.setdefault(row["runs"], empty)[row["figure"]] = _show(row)
    return list(made.values())


def accuracy(groups: Sequence[Group], kind: str = "cnn") -> Rows:
    """List the accuracy over all classes seen, after each task; `kind` is `cnn` or `nme`."""

    def values(run: Run) -> Values:
        figures = run.cnn if kind == "cnn" else run.nme
        return figures["accuracy"] if figures else [None] * run.finished

    return _over_tasks(groups, values)


def forgetting(groups: Sequence[Group]) -> Rows:
    """List the forgetting after each task but the first: `metrics.forgetting` up to it."""

    def values(run: Run) -> Values:
        matrix = run.cnn["matrix"]
        return [metrics.forgetting(matrix[: t + 1]) for t in range(run.finished)]

    return _over_tasks(groups, values)


def old_classes(groups: Sequence[Group]) -> Rows:
    """List the accuracy on the classes of earlier tasks, after each task but the first."""
    return _over_tasks(groups, lambda run: run.cnn["old"])


def new_classes(groups: Sequence[Group]) -> Rows:
    """List the accuracy on the classes of the newest task, after each task."""
    return _over_tasks(groups, lambda run: run.cnn["new"])


def logit_gap(groups: Sequence[Group]) -> Rows:
    """List by how much the mean logit of new classes is above that of old ones, after each task.

    Means are over the test images of all classes seen, as the run logged them.
    """

    def values(run: Run) -> Values:
        noted = _by_task(run, ("old_logit", "new_logit"))
        return [None if old is None or new is None else new - old for old, new in noted]

    return _over_tasks(groups, values)


def scale(groups: Sequence[Group]) -> Rows:
    """List the learned scale of the head in the last epoch of each task."""

    def values(run: Run) -> Values:
        last: dict[int, float] = {}
        for entry in run.entries:
            if entry.get("kind") == "epoch" and {"task", "scale"} <= entry.keys():
                last[entry["task"]] = entry["scale"]
        return [last.get(task) for task in range(run.finished)]

    return _over_tasks(groups, values)


def norms(groups: Sequence[Group]) -> Rows:
    """List the lengths of the head's vectors, in order of arrival, in the newest model."""
    rows: Rows = []
    for number, group in enumerate(groups):
        found = [run.norms for run in group.runs if run.norms is not None]
        # a model may be of the task before the newest results
        for i in range(min(map(len, found), default=0)):
            row = {"runs": group.name, "group": number, "arrival": i + 1, "task": _task(group, i)}
            rows.append({**row, **moments_of([float(lengths[i]) for lengths in found])})
    return rows


def task_matrix(group: Group) -> Rows:
    """List the accuracy on the classes of each task after each task, the mean over the runs."""
    rows: Rows = []
    for after in range(group.first.finished):
        for of in range(after + 1):
            cells = [run.cnn["matrix"][after][of] for run in group.runs]
            moments = moments_of(cells)
            if moments:
                rows.append({"after": after + 1, "of": of + 1, **moments})
    return rows


def confusion(run: Run, by_task: bool) -> Rows:
    """List how the test images of each class are distributed over the predicted classes, in %.

    Args:
      run: with an `outcome`.
      by_task: count tasks instead of classes.

    Returns:
      A row for each pair that occurs; `true_at` and `predicted_at` are places in order of arrival,
      from 0.
    """
    assert run.outcome is not None
    true, predicted = run.outcome
    if by_task:
        task = np.repeat(np.arange(len(run.sizes)), run.sizes)
        true, predicted = task[true], task[predicted]
        names: Sequence[str] = [f"task {t + 1}" for t in range(run.finished)]
    else:
        names = run.class_names[: run.seen[-1]]
    counts = metrics.confusion_matrix(true, predicted, len(names))
    totals = counts.sum(axis=1)
    return [
        {
            "true": names[i],
            "predicted": names[j],
            "true_at": i,
            "predicted_at": j,
            "images": int(counts[i, j]),
            "percent": 100 * float(counts[i, j] / totals[i]),
        }
        for i, j in np.argwhere(counts).tolist()
    ]


def classes(groups: Sequence[Group]) -> Rows:
    """List each class's accuracy and its training images in the newest task, for each run.

    New classes have the images of the data set, old ones their exemplars (`joint` has all images).
    """
    rows: Rows = []
    for number, group in enumerate(groups):
        for run in group.runs:
            if run.outcome is None or run.training_images is None:
                continue
            true, predicted = run.outcome
            images = np.bincount(true, minlength=run.seen[-1])
            right = np.bincount(true[true == predicted], minlength=run.seen[-1])
            old = run.seen[-2] if run.finished > 1 else 0
            kept = run.exemplars[run.finished - 2] if old else []
            everything = run.config["method.name"] == "joint"
            for i in np.flatnonzero(images).tolist():
                count = kept[i] if i < old and not everything else run.training_images[i]
                rows.append(
                    {
                        "runs": group.name,
                        "group": number,
                        "folder": run.folder,
                        "class": run.class_names[i],
                        "age": "old" if i < old else "new",
                        "training_images": count,
                        "test_images": int(images[i]),
                        "accuracy": 100 * float(right[i] / images[i]),
                    }
                )
    return rows


def training(groups: Sequence[Group]) -> Rows:
    """List the training loss and accuracy of each epoch, the mean over the runs.

    `epoch` counts the epochs of all stages and tasks. Of many epochs some are left out.
    """
    rows: Rows = []
    for number, group in enumerate(groups):
        logs = [
            [e for e in run.entries if e.get("kind") == "epoch" and e.keys() >= EPOCH]
            for run in group.runs
        ]
        epochs = list(enumerate(zip(*logs, strict=False), 1))
        for epoch, entries in epochs[:: 1 + len(epochs) // EPOCHS]:
            rows.append(
                {
                    "runs": group.name,
                    "group": number,
                    "epoch": epoch,
                    "task": entries[0]["task"] + 1,
                    "loss": statistics.fmean(entry["loss"] for entry in entries),
                    "accuracy": statistics.fmean(entry["accuracy"] for entry in entries),
                }
            )
    return rows


def time(groups: Sequence[Group]) -> Rows:
    """List the seconds of a run by kind of work, the mean over the runs."""
    rows: Rows = []
    for number, group in enumerate(groups):
        for kind in {kind: None for run in group.runs for kind in run.seconds}:
            seconds = statistics.fmean(run.seconds.get(kind, 0) for run in group.runs)
            rows.append({"runs": group.name, "group": number, "work": kind, "seconds": seconds})
    return rows


def config(groups: Sequence[Group]) -> Rows:
    """List the fields of the config in which groups differ, a column for each group."""
    return [
        {"field": path}
        | {
            group.name: "-" if value is None else _text(value)
            for group, value in zip(groups, row, strict=True)
        }
        # first the fields that all groups have
        for path, row in sorted(differences(groups).items(), key=lambda f: (None in f[1], f[0]))
    ]


def _show(moments: Mapping[str, Any]) -> str:
    """Write `mean ± deviation`, or only the mean of a single value."""
    text = f"{moments['mean']:.2f}"
    return text if moments["deviation"] is None else f"{text} ± {moments['deviation']:.2f}"


def moments_of(values: Values) -> dict[str, Any]:
    """Compute mean, deviation, low and high; nothing without values, None being none."""
    there = [value for value in values if value is not None]
    if not there:
        return {}
    mean = statistics.fmean(there)
    deviation = statistics.stdev(there) if len(there) > 1 else None
    spread = deviation or 0.0
    return {"mean": mean, "deviation": deviation, "low": mean - spread, "high": mean + spread}


def count(number: int, thing: str) -> str:
    """Write a number of things, such as `1 run` or `2 runs`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _over_tasks(groups: Sequence[Group], values: Callable[[Run], Values]) -> Rows:
    """Make a row for each group and task, of what a run has after each finished task."""
    rows: Rows = []
    for number, group in enumerate(groups):
        columns = zip(*(values(run) for run in group.runs), strict=True)
        for task, (seen, column) in enumerate(zip(group.first.seen, columns, strict=True)):
            if moments := moments_of(column):
                row = {"runs": group.name, "group": number, "task": task + 1, "classes": seen}
                rows.append({**row, **moments})
    return rows


def _by_task(run: Run, names: Sequence[str]) -> list[tuple[float | None, ...]]:
    """Read numbers of the log's entries of tasks; None where an entry has none."""
    found: dict[int, Mapping[str, Any]] = {
        entry["task"]: entry
        for entry in run.entries
        if entry.get("kind") == "task" and "task" in entry
    }
    return [tuple(found.get(task, {}).get(name) for name in names) for task in range(run.finished)]


def _task(group: Group, position: int) -> int:
    """Find the number of the task, from 1, that brought a class."""
    ends = np.cumsum(group.first.sizes)
    return int(np.searchsorted(ends, position, side="right")) + 1


def _last(value: Any) -> float | None:
    return value[-1] if isinstance(value, list) else value


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
