"""The tables printed at the end of a run."""

from typing import Any

from rich.console import Console
from rich.table import Table


def print_results(results: dict[str, Any]) -> None:
    """Print the contents of `results.json`: accuracy after each task, and the run's figures."""
    console = Console(highlight=False)
    predictions = {kind.upper(): results[kind] for kind in ("cnn", "nme") if results[kind]}

    name = f"{results['dataset']}: {results['method']}, {results['loss']}"
    table = Table(title=f"{name}; accuracy in %")
    table.add_column("after task", justify="right")
    table.add_column("classes", justify="right")
    for kind in predictions:
        for classes in ("all", "old", "new"):
            table.add_column(f"{kind} {classes}", justify="right")
    seen = 0
    tasks = results["tasks"][: len(results["cnn"]["accuracy"])]
    for number, classes in enumerate(tasks):
        seen += len(classes)
        row = [str(number + 1), str(seen)]
        for summary in predictions.values():
            row += [_percent(summary[column][number]) for column in ("accuracy", "old", "new")]
        table.add_row(*row)
    console.print(table)

    figures = Table(show_header=True)
    figures.add_column("%")
    for kind in predictions:
        figures.add_column(kind, justify="right")
    names = {
        "average_incremental": "average incremental accuracy",
        "last": "last accuracy",
        "forgetting": "forgetting",
    }
    for field, name in names.items():
        figures.add_row(name, *[_percent(summary[field]) for summary in predictions.values()])
    for field in ("old", "new"):
        row = [_percent(summary[field][-1]) for summary in predictions.values()]
        figures.add_row(f"{field} classes, last task", *row)
    console.print(figures)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
