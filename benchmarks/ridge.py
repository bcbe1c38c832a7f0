"""The analytic head of ACIL and DS-AL at other widths and strengths, on one frozen backbone.

    .venv/bin/python benchmarks/ridge.py --data_dir data     # trains what is missing
    .venv/bin/python benchmarks/ridge.py --table             # writes them to docs/results.md

CIFAR-100, base 50 in increments of 10, the short recipe's first task (seed 0), which
`benchmarks/study.py` trains if it is not there. Only the heads are solved for each setting, and all
images evaluated. Finished runs are files under benchmarks/results/ridge/.
"""

import os
import pathlib
from typing import NamedTuple

import common
import study
from tables import PAGE, figure

from bsce_jax.cli import Parser
from bsce_jax.errors import UserError, exit_on_user_error


class Setting(NamedTuple):
    """A method with its width and strength."""

    width: int
    gamma: float = 0.1
    method: str = "acil"

    @property
    def path(self) -> pathlib.Path:
        name = f"{self.method}-width={self.width}-gamma={self.gamma:g}.json"
        return common.RESULTS / "ridge" / name


SETTINGS = (
    *(Setting(width) for width in (64, 256, 1024, 2048, 4096)),
    *(Setting(2048, gamma) for gamma in (0.001, 1.0, 10.0, 100.0)),
    *(Setting(width, method="ds_al") for width in (1024, 2048)),
)


def train(setting: Setting, data_dir: str) -> None:
    """Solve the heads of a setting, unless its file exists."""
    run = study.Run(study.PROTOCOLS[0], setting.method, "cross_entropy", 0, "short")
    more = {"dataset.data_dir": data_dir}
    if setting.path.exists():
        return
    own = {"method.width": setting.width, "method.gamma": setting.gamma}
    start = {"train.init_from": run.first_task(more)}
    common.train(setting.path, run.config, {**run.fields(), **more, **own, **start})


def table() -> str:
    """Make the table of the finished runs."""
    lines = [
        "| method | width | gamma | average incremental | last | forgetting |",
        "|---" * 6 + "|",
    ]
    for setting in sorted(SETTINGS, key=lambda one: (one.method, one.gamma, one.width)):
        if found := common.read([setting.path]):
            names = ("average_incremental", "last", "forgetting")
            cells = " | ".join(figure(found, "cnn", name) for name in names)
            lines.append(f"| `{setting.method}` | {setting.width} | {setting.gamma:g} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--data_dir")
    parser.add_argument("--table", action="store_true", help="write the page, train nothing")
    args = parser.read()
    if args.table == bool(args.data_dir):
        raise UserError("give either --data_dir, to train, or --table, to write the page")
    if args.table:
        common.fill(PAGE, "ridge", table())
        return
    for setting in SETTINGS:
        train(setting, os.path.abspath(args.data_dir))


if __name__ == "__main__":
    exit_on_user_error(main)
