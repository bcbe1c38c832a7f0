"""The picture of docs/results.md: each method with its published loss and with the balanced one.

    .venv/bin/python benchmarks/study_picture.py       # draws docs/study.svg

The curves are those of the study's first protocol with the short recipe.
"""

from typing import Any

import altair as alt
import common
import vl_convert
from picture import STYLE, title_of
from tables import SHOWN, pairs

from bsce_jax.cli import Parser
from bsce_jax.errors import exit_on_user_error
from bsce_jax.files import write_atomically
from bsce_jax.report import charts, export
from bsce_jax.report.style import look
from bsce_jax.report.tables import moments_of

FILE = common.ROOT / "docs" / "study.svg"
# in the colours of README's picture
NAMES = ("balanced softmax", "published loss")
COLUMNS = 3
SIZE = (165, 190)


def main() -> None:
    Parser(description=__doc__).read()
    panels = [panel(method, both) for method, both in pairs(*SHOWN).items()]
    picture = alt.concat(*panels, columns=COLUMNS, spacing=30).resolve_scale(y="shared")
    svg = vl_convert.vegalite_to_svg(
        picture.configure(**look(STYLE)).to_dict(), vl_version=export.VERSION
    )
    write_atomically(FILE, lambda file: file.write(svg.encode()))


def panel(method: str, both: list[list[dict[str, Any]]]) -> alt.LayerChart:
    """Draw the accuracy of a method over the classes seen, with a curve for each loss."""
    rows = []
    for name, runs in zip(reversed(NAMES), both, strict=True):
        accuracies = zip(*(run["cnn"]["accuracy"] for run in runs), strict=True)
        seen = 0
        for task, values in zip(runs[0]["tasks"], accuracies, strict=True):
            seen += len(task)
            rows.append({"runs": name, "classes": seen, **moments_of(values)})
    chart = charts.curves(rows, NAMES, STYLE, "accuracy (%)")
    # a chart among others cannot have these
    chart.config = chart.autosize = alt.Undefined
    return chart.properties(width=SIZE[0], height=SIZE[1], title=title_of(method))


if __name__ == "__main__":
    exit_on_user_error(main)
