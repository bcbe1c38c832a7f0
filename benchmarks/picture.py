"""The picture at the top of README: the balanced loss, and what it does on the digits.

    .venv/bin/python benchmarks/digits.py       # trains the runs
    .venv/bin/python benchmarks/picture.py      # draws docs/balanced_softmax.svg

The sketch has the numbers of the digits: log n for the 10 exemplars of an old class and the 144
images of a new one, and equal logits. The curves are the figure `accuracy` of a report.
"""

import dataclasses
import math

import altair as alt
import common
import vl_convert
from digits import LOSSES, folder

from bsce_jax.cli import Parser
from bsce_jax.errors import exit_on_user_error
from bsce_jax.files import write_atomically
from bsce_jax.report import charts, export, tables
from bsce_jax.report.runs import Group, read_all, scenarios
from bsce_jax.report.style import COLORS, Style, look

FILE = common.ROOT / "docs" / "balanced_softmax.svg"
# grey can be read on white and on black
HEIGHT = 220
STYLE = Style(ink="#7a828c", size=(380, HEIGHT), font="Helvetica, Arial, sans-serif")
NAMES = {"cross_entropy": "cross-entropy", "balanced_softmax": "balanced softmax"}
IMAGES = {"old": 10, "new": 144}
LOGIT = 3.0


def main() -> None:
    Parser(description=__doc__).read()
    runs, _ = read_all([folder(loss) for loss in reversed(LOSSES)])
    (scenario,) = scenarios(runs)
    groups = [
        dataclasses.replace(group, name=NAMES[group.first.config["loss.name"]])
        for group in scenario.groups
    ]
    both = alt.hconcat(sketch(), accuracy(groups), spacing=60)
    picture = both.resolve_scale(color="independent", shape="independent").configure(**look(STYLE))
    svg = vl_convert.vegalite_to_svg(picture.to_dict(), vl_version=export.VERSION)
    write_atomically(FILE, lambda file: file.write(svg.encode()))


def sketch() -> alt.LayerChart:
    """Draw a bar for each class: its logit, and log n on top of it."""
    rows = []
    for age, images in IMAGES.items():
        ends = {"logit": (0.0, LOGIT), f"log {images}": (LOGIT, LOGIT + math.log(images))}
        for name, (low, high) in ends.items():
            part = "logit" if name == "logit" else "log n"
            label = name if part == "logit" else f"{name} = {high - low:.1f}"
            bar = f"{age} class, {images} images"
            rows.append({"bar": bar, "part": part, "low": low, "high": high, "label": label})
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X(
            "bar:N",
            sort=None,
            title=None,
            axis=alt.Axis(labelAngle=0, labelExpr="split(datum.label, ', ')", ticks=False),
        )
    )
    bars = base.mark_bar(size=104).encode(
        y=alt.Y("low:Q", title=None, axis=None),
        y2="high:Q",
        color=alt.Color(
            "part:N",
            scale=alt.Scale(domain=["logit", "log n"], range=[STYLE.ink, COLORS[0]]),
            legend=None,
        ),
    )
    words = base.transform_calculate(middle="(datum.low + datum.high) / 2").mark_text(
        color="white", fontSize=12, fontWeight="bold"
    )
    title = title_of(
        "Trains on softmax(logits + log n)", "predicts with the plain logits", offset=38
    )
    chart = alt.LayerChart(layer=[bars, words.encode(y="middle:Q", text="label:N")])
    return chart.properties(width=260, height=HEIGHT, title=title)


def accuracy(groups: list[Group]) -> alt.LayerChart:
    """Draw the accuracy of a report, with a title."""
    chart = charts.curves(
        tables.accuracy(groups), [group.name for group in groups], STYLE, "accuracy in %"
    )
    # a chart in a row of charts cannot have these
    chart.config = chart.autosize = alt.Undefined
    title = title_of("Digits: five tasks of two classes", "mean and deviation over five seeds")
    return chart.properties(title=title)


def title_of(text: str, below: str = "", offset: int = 12) -> alt.TitleParams:
    return alt.TitleParams(
        text,
        subtitle=below,
        anchor="start",
        color=STYLE.ink,
        subtitleColor=STYLE.ink,
        fontSize=14,
        subtitleFontSize=12,
        subtitlePadding=4,
        offset=offset,
    )


if __name__ == "__main__":
    exit_on_user_error(main)
