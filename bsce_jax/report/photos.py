"""Predictions for photos, and their accuracy, as a table, as JSON or as CSV."""

import csv
import dataclasses
import io
import itertools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.cells import cell_len

from bsce_jax import metrics
from bsce_jax.errors import in_one_line

FORMATS = ("table", "json", "csv")
WIDTH = 80  # of tables
GAP = "  "  # between their columns
VALUES = {"cnn": "probability", "nme": "cosine"}  # what is told of a class, by kind of prediction


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """The best classes of some photos.

    Attributes:
      run: folder of the run.
      task: number of the task after which its model was saved.
      by: kind of the predictions, a key of `VALUES`.
      class_names: of all classes of the model.
      files: the photos, [n].
      classes: the best classes as positions in `class_names`, best first, int [n, k].
      values: probabilities or cosines of these classes, [n, k].
      unreadable: the files left out, each with the reason.
    """

    run: str
    task: int
    by: str
    class_names: Sequence[str]
    files: Sequence[pathlib.Path]
    classes: np.ndarray
    values: np.ndarray
    unreadable: Sequence[tuple[pathlib.Path, str]]

    def text(self, form: str) -> str:
        """Write them in one of `FORMATS`; a table has a line for a photo if that is not too wide.

        Otherwise it has a line for the photo and one for each of its classes.
        """
        value = VALUES[self.by]
        best = [
            [(self.class_names[c], float(v)) for c, v in zip(row, values, strict=True)]
            for row, values in zip(self.classes.tolist(), self.values.tolist(), strict=True)
        ]
        if form == "json":
            predictions = [
                {"file": str(file), "top": [{"class": name, value: v} for name, v in row]}
                for file, row in zip(self.files, best, strict=True)
            ]
            return _json({**self.about(), "predictions": predictions})
        if form == "csv":
            rows = [
                [str(file), rank, name, f"{v:.6g}"]
                for file, row in zip(self.files, best, strict=True)
                for rank, (name, v) in enumerate(row, 1)
            ]
            return _csv([["file", "rank", "class", value], *rows])
        shown = (lambda v: f"{100 * v:.1f} %") if self.by == "cnn" else (lambda v: f"{v:.3f}")
        ranks = [str(rank) for rank in range(1, self.classes.shape[1] + 1)]
        rows = [
            [str(file), *(f"{name} {shown(v)}" for name, v in row)]
            for file, row in zip(self.files, best, strict=True)
        ]
        table = _table([["file", *ranks], *rows])
        if max(map(cell_len, table.splitlines())) <= WIDTH:
            return table
        lines = []
        for file, row in zip(self.files, best, strict=True):
            lines += [str(file), *(f"  {shown(v):>7}  {name}" for name, v in row)]
        return "".join(f"{in_one_line(line)}\n" for line in lines)

    def about(self) -> dict[str, Any]:
        """Say where they come from, as JSON."""
        unreadable = [{"file": str(file), "error": why} for file, why in self.unreadable]
        return {"run": self.run, "task": self.task, "by": self.by, "unreadable": unreadable}


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """Predictions for photos whose classes are known.

    Attributes:
      predictions: of the photos, at least one; only the best class counts.
      labels: the true classes as positions in the class names, int [n].
      left_out: names of the folders that are no class of the run.
    """

    predictions: Predictions
    labels: np.ndarray
    left_out: Sequence[str]

    def summary(self) -> str:
        """Say the accuracies in one line."""
        return (
            f"{len(self.labels)} images: accuracy {self.accuracy:.2f} %, "
            f"class-mean accuracy {self.class_mean:.2f} %"
        )

    @property
    def accuracy(self) -> float:
        """Over all images, in %."""
        return metrics.accuracy(self.labels, self.predictions.classes)

    @property
    def class_mean(self) -> float:
        """The mean over the classes that have images, in %."""
        return metrics.class_mean_accuracy(self.labels, self.predictions.classes)

    def text(self, form: str) -> str:
        """Write it in one of `FORMATS`; the CSV has the confusion matrix, a row for each class."""
        names = self.predictions.class_names
        matrix = metrics.confusion_matrix(
            self.labels, self.predictions.classes[:, 0], len(names)
        ).tolist()
        counts = [sum(row) for row in matrix]
        accuracies = [100 * matrix[i][i] / n if n else None for i, n in enumerate(counts)]
        if form == "json":
            facts = zip(names, counts, accuracies, strict=True)
            return _json(
                {
                    **self.predictions.about(),
                    "left_out": list(self.left_out),
                    "images": len(self.labels),
                    "accuracy": self.accuracy,
                    "class_mean": self.class_mean,
                    "classes": [{"class": c, "images": n, "accuracy": a} for c, n, a in facts],
                    "confusion": matrix,
                }
            )
        percent = ["" if a is None else f"{a:.2f}" for a in accuracies]
        start = [list(row) for row in zip(names, map(str, counts), percent, strict=True)]
        if form == "csv":
            header = ["class", "images", "accuracy", *(f"predicted {name}" for name in names)]
            return _csv([header, *(a + b for a, b in zip(start, matrix, strict=True))])
        header = ["class", "images", "accuracy in %", "taken for"]
        widths = [max(cell_len(in_one_line(row[i])) for row in [header, *start]) for i in range(3)]
        room = WIDTH - sum(width + len(GAP) for width in widths)
        rows = [
            [*row, _mistakes(i, matrix[i], names, room)] for i, row in enumerate(start) if counts[i]
        ]
        return f"{self.summary()}\n\n{_table([header, *rows])}"


def _mistakes(own: int, row: Sequence[int], names: Sequence[str], room: int) -> str:
    """List the other classes that a class is taken for, the most frequent first.

    Args:
      own: number of the class.
      row: how often it is taken for each class.
      names: of the classes.
      room: width of the list; what does not fit becomes "...".
    """
    wrong = [i for i in np.argsort(np.negative(row), kind="stable") if row[i] and i != own]
    listed = [in_one_line(f"{names[i]} ({row[i]})") for i in wrong]
    if cell_len(", ".join(listed)) > room:
        ends = itertools.accumulate(cell_len(f"{part}, ") for part in listed)
        listed = [*listed[: sum(end + len("...") <= room for end in ends)], "..."]
    return ", ".join(listed)


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def _csv(rows: Sequence[Sequence[object]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    # names of files may have bytes that are no text
    return buffer.getvalue().encode("utf-8", "backslashreplace").decode()


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Align columns to the left."""
    lines = [[in_one_line(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    padded = [
        [cell + " " * (width - cell_len(cell)) for cell, width in zip(line, widths, strict=True)]
        for line in lines
    ]
    return "".join(GAP.join(line).rstrip() + "\n" for line in padded)
