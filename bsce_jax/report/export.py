"""Figures and tables of a report as files for a paper: PNG, SVG, PDF, CSV and LaTeX."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import altair as alt
import vl_convert

from bsce_jax.report import figures, style, tables
from bsce_jax.report.runs import Scenario
from bsce_jax.report.tables import Rows

PNG_SCALE = 3  # pixels of the file for one of the figure
VERSION = alt.SCHEMA_VERSION.removeprefix("v").rpartition(".")[0]  # of Vega-Lite

IMAGES: Mapping[str, Callable[[dict[str, Any]], bytes]] = {
    "svg": lambda spec: vl_convert.vegalite_to_svg(spec, vl_version=VERSION).encode(),
    "png": lambda spec: vl_convert.vegalite_to_png(
        {**spec, "background": "white"}, vl_version=VERSION, scale=PNG_SCALE
    ),
    "pdf": lambda spec: vl_convert.vegalite_to_pdf(spec, vl_version=VERSION),
}


def make(scenarios: Sequence[Scenario], formats: Sequence[str]) -> dict[str, bytes]:
    """Make every figure and table of some scenarios in some formats.

    Args:
      scenarios: if there are several, the names of their files start with their numbers.
      formats: of `svg`, `png`, `pdf` for figures, and `csv`, `latex` for tables. CSV has the rows
        behind every figure; LaTeX, which needs the package booktabs, has the tables of a page.

    Returns:
      The contents of each file by its name.
    """
    files: dict[str, bytes] = {}
    for number, scenario in enumerate(scenarios, 1):
        start = f"{number}_" if len(scenarios) > 1 else ""
        groups = scenario.groups
        made = figures.make(scenario, style.PAPER)
        config = tables.config(groups)
        for form in formats:
            if form in IMAGES:
                for figure in made:
                    files[f"{start}{figure.name}.{form}"] = IMAGES[form](figure.chart.to_dict())
        if "csv" in formats:
            rows_of = {"summary": tables.figures(groups), "config": config}
            rows_of |= {figure.name: figure.rows for figure in made}
            files |= {f"{start}{name}.csv": _csv(rows) for name, rows in rows_of.items() if rows}
        if "latex" in formats:
            rows_of = {"summary": tables.summary(groups), "config": config}
            files |= {f"{start}{name}.tex": _latex(rows) for name, rows in rows_of.items() if rows}
    return files


def _csv(rows: Rows) -> bytes:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode("utf-8", "backslashreplace")


def _latex(rows: Rows) -> bytes:
    columns = list(rows[0])
    lines = [
        rf"\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}",
        r"\toprule",
        _latex_row(columns),
        r"\midrule",
        *(_latex_row([row[name] for name in columns]) for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace")


def _latex_row(cells: Sequence[Any]) -> str:
    return " & ".join(_latex_text(str(cell)) for cell in cells) + r" \\"


def _latex_text(text: str) -> str:
    """Escape what LaTeX reads as commands."""
    special = {c: rf"\{c}" for c in "&%$#_{}"}
    special |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {"\\": r"\textbackslash{}", "±": r"$\pm$"}
    return "".join(special.get(c, c) for c in text)
