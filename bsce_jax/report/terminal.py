"""The tables printed at the end of a run, and after the runs of several seeds."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from bsce_jax.runs.results import column_name

# the widest table, with all columns, has 74 characters
COLUMNS = {"accuracy": "all", "old": "old", "new": "new"}  # accuracies after each task
FIGURES = {
    "average_incremental": "average incremental accuracy",
    "last": "last accuracy",
    "forgetting": "forgetting",
}


def print_results(results: Mapping[str, Any], /) -> None:
    """Print the contents of `results.json`: accuracy after each task, and the run's figures."""
    tasks = results["tasks"][: len(results["cnn"]["accuracy"])]
    classes = list(itertools.accumulate(map(len, tasks)))
    last = {f"{kind} classes, last task": kind for kind in ("old", "new")}
    what = f"{_on_validation(results)}accuracy in %"
    _print(what, results, classes, tuple(COLUMNS), last, _percent)


def print_summary(summary: Mapping[str, Any], /) -> None:
    """Print the contents of `summary.json`: means and standard deviations over the seeds."""
    seeds = ", ".join(map(str, summary["seeds"]))
    what = f"{_on_validation(summary)}mean ± standard deviation in % over the seeds {seeds}"
    _print(what, summary, summary["classes"], ("accuracy",), {}, _spread)
    if summary["unfinished"]:
        print(f"not finished, left out: {', '.join(map(str, summary['unfinished']))}")


def _print(
    what: str,
    results: Mapping[str, Any],
    classes: Sequence[int],
    columns: Sequence[str],
    last: Mapping[str, str],
    show: Callable[[Any], str],
) -> None:
    """Print a table of the tasks and a table of the figures.

    Args:
      what: the numbers are.
      results: with `dataset`, `method`, `loss`, `cnn` and `nme`.
      classes: seen after each task.
      columns: of the tasks' table, keys of `COLUMNS`.
      last: columns whose last value is a figure too, by name.
      show: formats a number.
    """
    console = Console(highlight=False)
    flip = results.get("flip") is True
    kinds = {column_name(kind, flip): results[kind] for kind in ("cnn", "nme") if results[kind]}
    title = f"{results['dataset']}: {results['method']}, {results['loss']}"
    console.print(f"{title}\n{what}", markup=False, soft_wrap=True)

    table = Table()
    for name in ("task", "classes"):
        table.add_column(name, justify="right")
    for kind in kinds:
        for column in columns:
            name = COLUMNS[column]
            table.add_column(f"{kind} {name}" if name == "all" else name, justify="right")
    for task, seen in enumerate(classes):
        cells = [show(figures[column][task]) for figures in kinds.values() for column in columns]
        table.add_row(str(task + 1), str(seen), *cells)
    console.print(table)

    table = Table("")
    for kind in kinds:
        table.add_column(kind, justify="right")
    for field, name in FIGURES.items():
        table.add_row(name, *(show(figures[field]) for figures in kinds.values()))
    for name, field in last.items():
        table.add_row(name, *(show(figures[field][-1]) for figures in kinds.values()))
    console.print(table)


def _on_validation(results: Mapping[str, Any]) -> str:
    return "validation images: " if results.get("evaluated_on") == "validation" else ""


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _spread(value: Mapping[str, float | None] | None) -> str:
    """Write `mean ± standard deviation`, or the value of a single seed."""
    if value is None:
        return "-"
    return " ± ".join(_percent(value[name]) for name in ("mean", "std") if value[name] is not None)
