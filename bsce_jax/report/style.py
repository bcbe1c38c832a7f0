"""The look of a report's charts: colours, sizes, axes and legends."""

import dataclasses
import json
import textwrap
from collections.abc import Sequence
from typing import Any

import altair as alt

# of middle lightness, to be read on white and on black; with shapes they are told apart without
# colours too
COLORS = (
    *("#e8710a", "#3b7ddd", "#2a9d5c", "#9b6dd6"),
    *("#d6487e", "#1a95a5", "#a8792a", "#7d8590"),
)
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
HEAT = "#2563eb"
ROW = 28  # pixels for a name of two lines


@dataclasses.dataclass(frozen=True)
class Style:
    """How charts look.

    Attributes:
      ink: colour of text and axes.
      size: width and height of a wide figure in pixels; None fills the container of a page.
      on_page: the page has the legends, and says in the parameter `shown` which groups are shown.
      font: its name.
    """

    ink: str = "#222222"
    size: tuple[int, int] | None = (340, 210)
    on_page: bool = False
    font: str = "sans-serif"


PAPER = Style()
PAGE = Style(ink="currentColor", size=None, on_page=True, font="system-ui, sans-serif")


def color(number: int) -> str:
    """The colour of a group."""
    return COLORS[number % len(COLORS)]


def color_of_groups(names: Sequence[str], style: Style) -> alt.Color:
    """Encode the group by colour, the same in all charts."""
    scale = alt.Scale(domain=list(names), range=[color(i) for i in range(len(names))])
    return alt.Color("runs:N", title=None, scale=scale, legend=_legend(names, style))


def shape_of_groups(names: Sequence[str], style: Style) -> alt.Shape:
    """Encode the group by shape, the same in all charts."""
    shapes = [SHAPES[i % len(SHAPES)] for i in range(len(names))]
    scale = alt.Scale(domain=list(names), range=shapes)
    return alt.Shape("runs:N", title=None, scale=scale, legend=_legend(names, style))


def lines(names: Sequence[str], **more: Any) -> alt.Axis:
    """Make an axis whose names are in two lines if they are long."""
    broken = {name: textwrap.wrap(name, 30, max_lines=2, placeholder=" …") for name in names}
    words = f"({json.dumps(broken)})[datum.value]"
    higher = {"test": f"{words}.length > 1", "value": -6}
    return alt.Axis(
        labelExpr=words,
        labelOffset={"condition": higher, "value": 0},
        labelLimit=180,
        **more,
    )


def finish(
    chart: Any,
    style: Style,
    names: Sequence[str] | None,
    square: bool = False,
    height: int | None = None,
) -> Any:
    """Set size and look, and on a page the filter by the parameter `shown`.

    Args:
      chart: of one view.
      style: see `Style`.
      names: of the groups that can be left out; None if the chart is not of several groups.
      square: whether it is as high as wide.
      height: in pixels, if the rows say how high it is.
    """
    if style.on_page and names is not None:
        # a rule has no runs, and stays
        chart = chart.add_params(alt.param(name="shown", value=list(names)))
        chart = chart.transform_filter("indexof(shown, datum.runs) >= 0 || !isDefined(datum.runs)")
    width: Any
    tall: Any
    fit: Any = "pad"
    if style.size is None:
        width = tall = "container"
        fit = "fit" if height is None else "fit-x"
    else:
        width, tall = style.size
        width = tall if square else width
    return chart.properties(
        width=width,
        height=tall if height is None else height,
        autosize=alt.AutoSizeParams(type=fit, contains="padding"),
    ).configure(**look(style))


def look(style: Style) -> dict[str, Any]:
    """The part of a style that Vega-Lite calls the config."""
    faint = {"gridColor": style.ink, "gridOpacity": 0.13, "domainColor": style.ink}
    return {
        "background": "transparent",
        "font": style.font,
        "padding": 4,
        "view": {"stroke": None},
        "axis": {
            **faint,
            "domainOpacity": 0.5,
            "tickColor": style.ink,
            "tickOpacity": 0.5,
            "labelColor": style.ink,
            "titleColor": style.ink,
            "titleFontWeight": "normal",
            "labelFontSize": 11,
            "titleFontSize": 12,
        },
        "legend": {
            "labelColor": style.ink,
            "titleColor": style.ink,
            "labelFontSize": 11,
            "labelLimit": 260,
            "columnPadding": 20,
            "symbolSize": 70,
            "symbolOpacity": 1,
        },
        "text": {"color": style.ink},
    }


def _legend(names: Sequence[str], style: Style) -> alt.Legend | None:
    if style.on_page or len(names) < 2:
        return None
    return alt.Legend(orient="top", columns=1 if max(map(len, names)) > 24 else 2)
