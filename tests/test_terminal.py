"""Tables fit 80 columns, however many tasks there are and however long the names."""

import pathlib
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len

from bsce_jax.loading import config_names, describe_config
from bsce_jax.report import catalogue
from bsce_jax.report.photos import Evaluation, Predictions
from bsce_jax.report.terminal import print_results, print_summary


def width(text: str) -> int:
    return max(map(cell_len, text.splitlines()))


@pytest.fixture(autouse=True)
def columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal wider than the tables may be."""
    monkeypatch.setenv("COLUMNS", "200")


def figures(tasks: int, value: Any) -> dict[str, Any]:
    per_task = {name: [value] * tasks for name in ("accuracy", "old", "new")}
    return per_task | dict.fromkeys(("average_incremental", "last", "forgetting"), value)


NAMES = {"dataset": "tfds:stanford_dogs", "method": "il_baseline", "loss": "separated_softmax"}


@pytest.mark.parametrize("tasks", [6, 11, 26, 51])
def test_results_fit(tasks: int, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = {kind: figures(tasks, 100.0) for kind in ("cnn", "nme")}
    print_results({**NAMES, **kinds, "tasks": [[0] * 20] * tasks})
    text = capsys.readouterr().out
    assert width(text) <= 80
    rows = [line.split("│") for line in text.splitlines() if line.startswith("│")]
    numbers = [[cell.strip() for cell in row[1:-1]] for row in rows if len(row) == 10]
    assert numbers == [[str(task), str(20 * task), *["100.00"] * 6] for task in range(1, tasks + 1)]


@pytest.mark.parametrize("tasks", [6, 51])
def test_summaries_fit(tasks: int, capsys: pytest.CaptureFixture[str]) -> None:
    value = {"mean": 12.5, "std": 10.0, "values": []}
    classes = list(range(20, 20 * tasks + 1, 20))
    about = {**NAMES, "seeds": list(range(10)), "unfinished": [11], "classes": classes}
    cnn = figures(tasks, value) | {"forgetting": None, "last": {**value, "std": None}}
    print_summary({**about, "cnn": cnn, "nme": figures(tasks, value)})
    text = capsys.readouterr().out
    assert width(text) <= 80
    rows = [[c.strip() for c in line.split("│")[1:-1]] for line in text.splitlines()]
    assert [str(tasks), str(20 * tasks), "12.50 ± 10.00", "12.50 ± 10.00"] in rows
    assert ["forgetting", "-", "12.50 ± 10.00"] in rows
    assert ["last accuracy", "12.50", "12.50 ± 10.00"] in rows
    assert text.endswith("not finished, left out: 11\n")


def predictions(names: list[str], files: list[str], k: int = 5) -> Predictions:
    classes = np.tile(np.arange(k), (len(files), 1))
    values = np.tile(0.9 / 2.0 ** np.arange(k), (len(files), 1))
    paths = [pathlib.Path(file) for file in files]
    return Predictions("run", 0, "cnn", names, paths, classes, values, ())


def test_short_predictions_have_a_line_for_a_photo() -> None:
    text = predictions(list("abcdef"), ["x.png", "holiday/y.png"]).text("table")
    assert text.splitlines()[1:] == [
        "x.png          a 90.0 %  b 45.0 %  c 22.5 %  d 11.2 %  e 5.6 %",
        "holiday/y.png  a 90.0 %  b 45.0 %  c 22.5 %  d 11.2 %  e 5.6 %",
    ]


def test_long_predictions_have_a_line_for_a_class() -> None:
    names = [f"flat-coated retriever {i}" for i in range(9)]
    text = predictions(names, ["x.png", "a\nb.png"], k=2).text("table")
    assert width(text) <= 80
    text = predictions(names, ["x.png", "a\nb.png"], k=3).text("table")
    assert text.splitlines() == [
        "x.png",
        "   90.0 %  flat-coated retriever 0",
        "   45.0 %  flat-coated retriever 1",
        "   22.5 %  flat-coated retriever 2",
        "a\\nb.png",
        "   90.0 %  flat-coated retriever 0",
        "   45.0 %  flat-coated retriever 1",
        "   22.5 %  flat-coated retriever 2",
    ]


@pytest.mark.parametrize(("length", "mistakes"), [(1, 5), (10, 2), (40, 0)])
def test_evaluations_fit(length: int, mistakes: int) -> None:
    names = [f"{'n' * length}{i:02}" for i in range(50)]
    files = [f"{i}.png" for i in range(2500)]
    made = predictions(names, files, k=1)
    made.classes[:, 0] = np.arange(2500) % 50
    labels = np.arange(2500) // 50
    text = Evaluation(made, labels, ()).text("table")
    assert width(text) <= 80
    first = text.splitlines()[3]
    assert first.split()[:3] == [names[0], "50", "2.00"]
    assert first.endswith("...")
    assert first.count("(1), ") == mistakes


def test_helps_fit() -> None:
    assert width(catalogue.text()) <= 80
    for name in config_names():
        described = describe_config(name, {}).partition("\nfields, ")[2]
        assert width(described) <= 80
