"""The charts of a report in Vega-Lite, each drawn from the rows of a table."""

import json
from collections.abc import Sequence
from typing import Any

import altair as alt

from bsce_jax.report.style import (
    COLORS,
    HEAT,
    ROW,
    Style,
    color_of_groups,
    finish,
    lines,
    shape_of_groups,
)
from bsce_jax.report.tables import Rows

NAMED = 25  # classes or tasks whose names and numbers find room in a matrix


def curves(
    rows: Rows,
    names: Sequence[str],
    style: Style,
    title: str,
    x: tuple[str, str] = ("classes", "classes seen"),
    zero: bool = False,
) -> alt.LayerChart:
    """Draw a line with a band for each group.

    Args:
      rows: with `runs`, the column of x, and mean, deviation, low and high.
      names: of all groups.
      style: of the chart.
      title: of the numbers.
      x: the column that is along, and its title.
      zero: whether there is a line at 0.
    """
    field, x_title = x
    base = alt.Chart().encode(
        x=alt.X(f"{field}:Q", title=x_title, axis=_whole(rows, field), scale=_tight()),
        color=color_of_groups(names, style),
    )
    tooltip = [
        alt.Tooltip("runs:N"),
        alt.Tooltip(f"{field}:Q", title=x_title),
        alt.Tooltip("mean:Q", title=title, format=".2f"),
        alt.Tooltip("deviation:Q", title="deviation", format=".2f"),
    ]
    # a band may go beyond what an accuracy can be
    most = 100 if title.endswith("%") else alt.Undefined
    y = alt.Y("mean:Q", title=title, scale=alt.Scale(zero=False, nice=True, domainMax=most))
    layers: list[alt.Chart] = []
    if zero:
        rule = alt.Chart(alt.Data(values=[{"y": 0}]))
        layers.append(rule.mark_rule(color=style.ink, opacity=0.5).encode(y="y:Q"))
    layers += [
        base.mark_area(opacity=0.18, clip=True).encode(y=alt.Y("low:Q", title=title), y2="high:Q"),
        base.mark_line(strokeWidth=2).encode(y=y),
        base.mark_point(filled=True, size=45, opacity=1).encode(
            y=y, shape=shape_of_groups(names, style), tooltip=tooltip
        ),
    ]
    return finish(alt.layer(*layers, data=alt.Data(values=rows)), style, names)


def task_matrix(rows: Rows, tasks: int, style: Style) -> alt.LayerChart:
    """Draw the accuracy `of` each task `after` each of so many tasks, with numbers in the cells."""
    numbers = list(range(1, tasks + 1))
    values = numbers if tasks <= NAMED else numbers[:: 1 + tasks // 10]
    axis = alt.Axis(grid=False, labelAngle=0, values=values, ticks=False, domain=False)
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("of:O", title="tested on task", axis=axis, scale=alt.Scale(domain=numbers)),
        y=alt.Y("after:O", title="after task", axis=axis, scale=alt.Scale(domain=numbers)),
    )
    tooltip = [
        alt.Tooltip("after:O", title="after task"),
        alt.Tooltip("of:O", title="tested on task"),
        alt.Tooltip("mean:Q", title="accuracy in %", format=".2f"),
    ]
    opacity = alt.Opacity(
        "mean:Q",
        # squared, since most accuracies are high
        scale=alt.Scale(type="pow", exponent=2, domain=[0, 100], range=[0.03, 1]),
        legend=None,
    )
    layers = [base.mark_rect(color=HEAT).encode(opacity=opacity, tooltip=tooltip)]
    if tasks <= NAMED // 2:
        layers.append(
            base.mark_text(fontSize=11).encode(
                text=alt.Text("mean:Q", format=".0f"),
                color=alt.condition("datum.mean > 84", alt.value("white"), alt.value(style.ink)),
            )
        )
    return finish(alt.layer(*layers), style, None, square=True)


def confusion(
    rows: Rows, sizes: Sequence[int], class_names: Sequence[str] | None, style: Style
) -> alt.LayerChart:
    """Draw which classes are taken for which.

    Args:
      rows: with `true_at`, `predicted_at` and `percent`.
      sizes: how many places each task has.
      class_names: of the places; None if the places are tasks.
      style: of the chart.
    """
    total = sum(sizes)
    ends = [sum(sizes[: t + 1]) for t in range(len(sizes))]
    if class_names is not None and total <= NAMED:
        at = [i + 0.5 for i in range(total)]
        words = f"{json.dumps(list(class_names[:total]))}[floor(datum.value)]"
    else:
        at = [end - size / 2 for end, size in zip(ends, sizes, strict=True)]
        at = at[:: 1 + len(at) // 12]
        marks = {f"{place:g}": f"task {ends.index(_end(ends, place)) + 1}" for place in at}
        words = f"({json.dumps(marks)})[format(datum.value, '~g')]"
    axis = alt.Axis(
        values=at,
        tickCount=len(at),  # else a narrow chart leaves some out
        labelExpr=words,
        labelLimit=90,
        grid=False,
        ticks=False,
        domain=False,
        labelOverlap=True,
    )
    scale = alt.Scale(domain=[0, total], nice=False, padding=0)
    base = alt.Chart(alt.Data(values=rows)).transform_calculate(
        right="datum.predicted_at + 1", below="datum.true_at + 1"
    )
    cells = base.mark_rect(color=HEAT).encode(
        x=alt.X("predicted_at:Q", title="predicted", axis=axis, scale=scale),
        x2="right:Q",
        y=alt.Y(
            "true_at:Q",
            title="true",
            axis=axis,
            scale=alt.Scale(domain=[0, total], nice=False, padding=0, reverse=True),
        ),
        y2="below:Q",
        opacity=alt.Opacity(
            "percent:Q", scale=alt.Scale(type="sqrt", domain=[0, 100], range=[0.03, 1]), legend=None
        ),
        tooltip=[
            alt.Tooltip("true:N"),
            alt.Tooltip("predicted:N"),
            alt.Tooltip("images:Q", title="test images"),
            alt.Tooltip("percent:Q", title="% of the row", format=".1f"),
        ],
    )
    borders = alt.Chart(alt.Data(values=[{"end": end} for end in (0, *ends)]))
    rules = borders.mark_rule(color=style.ink, opacity=0.25, strokeWidth=1)
    layers = alt.layer(cells, rules.encode(x="end:Q"), rules.encode(y="end:Q"))
    return finish(layers, style, None, square=True)


def _end(ends: Sequence[int], place: float) -> int:
    return next(end for end in ends if end > place)


def classes(rows: Rows, names: Sequence[str], style: Style) -> alt.Chart:
    """Draw a point for each class: its training images and its accuracy."""
    counts = [row["training_images"] for row in rows] or [1]
    ticks = [n * 10**power for power in range(7) for n in (1, 3)]
    low = max((tick for tick in ticks if tick < min(counts)), default=0)
    ticks = [tick for tick in (0, *ticks) if low <= tick <= 3.4 * max(counts)]
    chart = alt.Chart(alt.Data(values=rows)).mark_point(size=40, opacity=0.75, strokeWidth=1.5)
    return finish(
        chart.encode(
            x=alt.X(
                "training_images:Q",
                title="training images of the class",
                scale=alt.Scale(
                    type="log" if low else "symlog", domain=[ticks[0], ticks[-1]], nice=False
                ),
                axis=alt.Axis(values=ticks, format="~s"),
            ),
            y=alt.Y("accuracy:Q", title="accuracy in %"),
            color=color_of_groups(names, style),
            shape=alt.Shape(
                "age:N",
                title=None,
                scale=alt.Scale(domain=["old", "new"], range=["circle", "cross"]),
                legend=alt.Legend(labelExpr="datum.label + ' class'", orient="top"),
            ),
            tooltip=[
                alt.Tooltip("runs:N"),
                alt.Tooltip("class:N"),
                alt.Tooltip("age:N"),
                alt.Tooltip("training_images:Q", title="training images"),
                alt.Tooltip("accuracy:Q", title="accuracy in %", format=".1f"),
            ],
        ),
        style,
        names,
    )


def training(rows: Rows, names: Sequence[str], style: Style) -> alt.Chart:
    """Draw the loss over the epochs, on a logarithmic axis if it can be."""
    kind: Any = "log" if all(row["loss"] > 0 for row in rows) else "linear"
    chart = alt.Chart(alt.Data(values=rows)).mark_line(strokeWidth=1.2)
    return finish(
        chart.encode(
            x=alt.X(
                "epoch:Q", title="epoch, of all tasks", scale=_tight(), axis=alt.Axis(grid=False)
            ),
            y=alt.Y("loss:Q", title="loss", scale=alt.Scale(type=kind), axis=alt.Axis(grid=False)),
            color=color_of_groups(names, style),
            tooltip=[
                alt.Tooltip("runs:N"),
                alt.Tooltip("task:Q"),
                alt.Tooltip("epoch:Q"),
                alt.Tooltip("loss:Q", format=".3f"),
                alt.Tooltip("accuracy:Q", title="training accuracy in %", format=".1f"),
            ],
        ),
        style,
        names,
    )


def time(rows: Rows, style: Style) -> alt.LayerChart:
    """Draw a bar for each group, with the seconds of each kind of work."""
    works = list(dict.fromkeys(row["work"] for row in rows))
    names = list(dict.fromkeys(row["runs"] for row in rows))
    colors = [COLORS[(i + 1) % len(COLORS)] for i in range(len(works))]
    y = alt.Y("runs:N", title=None, sort=names, axis=None)
    bars = alt.Chart().transform_calculate(place=f"indexof({json.dumps(works)}, datum.work)")
    bars = bars.mark_bar(size=14).encode(
        x=alt.X("sum(seconds):Q", title="seconds"),
        y=y,
        color=alt.Color(
            "work:N",
            title=None,
            scale=alt.Scale(domain=works, range=colors),
            legend=alt.Legend(orient="top", columns=3),
        ),
        order=alt.Order("place:Q"),
        tooltip=[
            alt.Tooltip("runs:N"),
            alt.Tooltip("work:N"),
            alt.Tooltip("seconds:Q", format=".2f"),
        ],
    )
    above = alt.Chart().transform_aggregate(groupby=["runs"])
    above = above.mark_text(align="left", baseline="bottom", dy=-9).encode(
        x=alt.value(0), y=y, text="runs:N"
    )
    chart = alt.layer(bars, above, data=alt.Data(values=rows))
    return finish(chart, style, names, height=38 * len(names))


def published(rows: Rows, style: Style) -> alt.LayerChart:
    """Draw a dot for each figure with an average, a line of dots for each method."""
    rows = [row for row in rows if row["average"] is not None]
    best: dict[str, float] = {}
    for row in rows:
        best[row["name"]] = max(row["average"], best.get(row["name"], 0))
    names = sorted(best, key=lambda name: -best[name])
    base = alt.Chart(alt.Data(values=rows)).encode(
        y=alt.Y("name:N", title=None, sort=names, axis=lines(names, grid=True)),
        color=alt.Color(
            "origin:N",
            title=None,
            scale=alt.Scale(domain=["these runs", "published"], range=[COLORS[0], COLORS[-1]]),
            legend=alt.Legend(orient="top", columns=1),
        ),
    )
    dots = base.mark_point(filled=True, size=60, opacity=0.9).encode(
        x=alt.X("average:Q", title="average accuracy in %", scale=_tight()),
        tooltip=[
            alt.Tooltip("name:N"),
            alt.Tooltip("average:Q", format=".2f"),
            alt.Tooltip("last:Q", format=".2f"),
            alt.Tooltip("augmentation:N"),
            alt.Tooltip("source:N"),
        ],
    )
    spread = base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q")
    return finish(alt.layer(spread, dots), style, None, height=ROW * len(names))


def _tight() -> alt.Scale:
    """Let the axis end where the numbers do."""
    return alt.Scale(zero=False, nice=False, padding=8)


def _whole(rows: Rows, field: str) -> alt.Axis:
    """Put ticks at the numbers that occur, if they are few."""
    values = sorted({row[field] for row in rows})
    if len(values) <= 12:
        return alt.Axis(values=values, tickCount=len(values), grid=False, format="d")
    return alt.Axis(grid=False, format="d", tickMinStep=1)
