"""The page of a report: one HTML file that needs no network, for screens and for paper."""

import html
import importlib.resources
import json
from collections.abc import Sequence
from typing import Any

import altair as alt
import vl_convert

from bsce_jax import __version__
from bsce_jax.report import figures, style, tables
from bsce_jax.report.figures import Figure
from bsce_jax.report.runs import Scenario
from bsce_jax.report.tables import Rows

ROWS = 400  # of a table that is on the page
HIDDEN = ("group", "low", "high", "true_at", "predicted_at")  # columns for the charts alone

# of a legend's symbol, within -1 to 1, as Vega draws them
PATHS = {
    "circle": "M-.8,0a.8,.8 0 1,0 1.6,0a.8,.8 0 1,0 -1.6,0",
    "square": "M-.7,-.7h1.4v1.4h-1.4z",
    "triangle-up": "M0,-.9L.9,.7H-.9z",
    "diamond": "M0,-1L.8,0L0,1L-.8,0z",
    "cross": "M-.3,-.9h.6v.6h.6v.6h-.6v.6h-.6v-.6h-.6v-.6h.6z",
    "triangle-down": "M0,.9L-.9,-.7H.9z",
}


def make(scenarios: Sequence[Scenario], notes: Sequence[str]) -> str:
    """Make the page.

    Args:
      scenarios: at least one; each has a part of its own.
      notes: lines for its top, such as what is left out.
    """
    specs: dict[str, Any] = {}
    parts = [_scenario(n, scenario, specs) for n, scenario in enumerate(scenarios, 1)]
    runs = sum(len(scenario.runs) for scenario in scenarios)
    datasets = {scenario.runs[0].dataset: None for scenario in scenarios}
    title = scenarios[0].name if len(scenarios) == 1 else f"Runs on {', '.join(datasets)}"
    remarks = list(notes)
    if len(scenarios) > 1:
        remarks.insert(
            0,
            f"The runs have {len(scenarios)} different data sets or tasks. Their accuracies do not "
            "compare: each has a part of its own.",
        )
    unfinished = [
        run.folder for scenario in scenarios for run in scenario.runs if not run.is_complete
    ]
    if unfinished:
        remarks.append(f"Not finished: {', '.join(map(str, unfinished))}.")
    listed = "".join(f"<li>{html.escape(remark)}</li>" for remark in remarks)
    # "<" would end the element that the text is in
    data = json.dumps(specs, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return _asset("page.html").format(
        title=html.escape(title),
        subtitle=tables.count(runs, "run"),
        version=__version__,
        style=_asset("page.css"),
        notes=f'<ul class="notes">{listed}</ul>' if listed else "",
        body="\n".join(parts),
        data=data,
        library=_library(),
        script=_asset("page.js"),
    )


def _scenario(number: int, scenario: Scenario, specs: dict[str, Any]) -> str:
    """Make the part of a scenario; its charts are added to `specs`."""
    groups = scenario.groups
    lines = [f'<section class="scenario" id="scenario{number}">']
    lines += [f"<h2>{html.escape(scenario.name)}</h2>"]
    several = any(len(group.runs) > 1 for group in groups)
    spread = ", mean ± standard deviation over the runs of a row" if several else ""
    lines += [
        _table(
            tables.summary(groups),
            f"Accuracies in % of the networks' own predictions{spread}. Last accuracy is over all "
            "classes after the last task; average incremental is its mean over all tasks; "
            "forgetting is the mean drop of the earlier tasks from their best; old and new classes "
            "are those before and of the last task; NME is by nearest class mean.",
        )
    ]
    if len(groups) > 1:
        lines += [_legend(scenario)]
    made = figures.make(scenario, style.PAGE)
    for part in dict.fromkeys(figure.part for figure in made):
        lines += [f"<section><h3>{part}</h3>"]
        own = [figure for figure in made if figure.part == part]
        captions = {figure.caption for figure in own}
        shared = len(captions) == 1 < len(own)
        if shared:
            lines += [f'<p class="caption">{html.escape(own[0].caption)}</p>']
        lines += [f'<div class="figures {own[0].shape}">']
        for figure in own:
            place = f"scenario{number}-{figure.name}"
            specs[place] = figure.chart.to_dict()
            lines += [_figure(place, figure, with_caption=not shared)]
        lines += ["</div></section>"]
    differ = tables.config(groups)
    if differ:
        caption = "The fields of the config in which the groups differ; - where there is none."
        lines += ["<section><h3>Configs</h3>", _table(differ, caption, "words"), "</section>"]
    folders = [
        {"runs": group.name, "folder": run.folder, "seed": run.config.get("seed", "-")}
        for group in groups
        for run in group.runs
    ]
    listed = _table(folders, "The runs of each group.", "words")
    lines += ["<section><h3>Folders</h3>", listed, "</section>"]
    return "\n".join([*lines, "</section>"])


def _legend(scenario: Scenario) -> str:
    buttons = []
    for number, group in enumerate(scenario.groups):
        path = PATHS[style.SHAPES[number % len(style.SHAPES)]]
        symbol = (
            f'<svg viewBox="-1 -1 2 2" aria-hidden="true"><path d="{path}" '
            f'fill="{style.color(number)}"/></svg>'
        )
        name = html.escape(group.name)
        runs = f" <small>{tables.count(len(group.runs), 'run')}</small>"
        buttons.append(
            f'<button type="button" aria-pressed="true" data-runs="{name}" data-group="{number}">'
            f"{symbol}{name}{runs}</button>"
        )
    listed = "".join(buttons)
    return f'<div class="legend" role="group" aria-label="Show in all figures">{listed}</div>'


def _figure(place: str, figure: Figure, with_caption: bool) -> str:
    group = "" if figure.group is None else f' data-group="{figure.group}"'
    rows = [
        {name: value for name, value in row.items() if name not in HIDDEN} for row in figure.rows
    ]
    if len(rows) <= ROWS:
        numbers = _table(rows, "")
    else:
        numbers = f"<p>{len(rows)} rows: <code>--format csv</code> writes them to a file.</p>"
    title, caption = html.escape(figure.title), html.escape(figure.caption)
    below = f"<figcaption>{caption}</figcaption>" if with_caption else ""
    return (
        f'<figure id="{place}" class="{figure.shape}"{group}>'
        f"<h4>{title}</h4>"
        f'<div class="plot" role="img" aria-label="{title}: {caption}"></div>'
        f"{below}"
        f"<details><summary>Numbers</summary>{numbers}</details>"
        "</figure>"
    )


def _table(rows: Rows, caption: str, kind: str = "") -> str:
    """Make a table; its first column has the names of the rows."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f'<th scope="col">{html.escape(_title(name))}</th>' for name in columns)
    body = []
    for row in rows:
        first, *others = (_cell(row.get(name)) for name in columns)
        cells = "".join(f"<td>{cell}</td>" for cell in others)
        body.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
    below = f"<p>{html.escape(caption)}</p>" if caption else ""
    return (
        f'<div class="table {kind}" tabindex="0" role="region" aria-label="table">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>{below}"
    )


def _title(column: str) -> str:
    return column.replace("_", " ") if column.isidentifier() else column


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else html.escape(str(value))


def _asset(name: str) -> str:
    return (importlib.resources.files("bsce_jax.report") / name).read_text("utf-8")


def _library() -> str:
    """The JavaScript of Vega, Vega-Lite and their tooltips, with `vegaEmbed` as a global name."""
    version = alt.SCHEMA_VERSION.removeprefix("v").rpartition(".")[0]
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version)
    return bundle.replace("</script", "<\\/script")
