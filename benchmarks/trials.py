"""Small trials of what may make any method better, on the small CIFAR-100 of `small.py`.

    .venv/bin/python benchmarks/trials.py --data_dir data     # trains what is missing
    .venv/bin/python benchmarks/trials.py --table             # writes them to docs/results_small.md

Finished runs are files under benchmarks/results/trials/.
"""

import os
import pathlib
from typing import Any, NamedTuple

import common
import small

from bsce_jax.cli import Parser
from bsce_jax.errors import UserError, exit_on_user_error

BALANCED, PLAIN = "balanced_softmax", "cross_entropy"


class Trial(NamedTuple):
    """A method with a loss and fields that differ from `small.FIELDS`."""

    loss: str
    fields: dict[str, Any]
    method: str = "il_baseline"

    def path(self, seed: int) -> pathlib.Path:
        """Name the file of its run."""
        if not self.fields:
            return small.path(self.method, self.loss, seed, small.EPOCHS[0])
        fields = "-".join(f"{path}={value}" for path, value in self.fields.items())
        name = f"{self.method}-{self.loss}-{fields}-{seed}.json"
        return common.RESULTS / "trials" / name


TRIALS = (
    Trial(BALANCED, {}),
    Trial(BALANCED, {"model.flip": True}),
    Trial(BALANCED, {"train.average": 0.99}),
    Trial(BALANCED, {"train.sharpness": 0.05}),
    Trial(BALANCED, {"train.warmup": 1}),
    Trial(BALANCED, {"train.decorrelation": 0.5}),
    Trial(BALANCED, {"train.self_distillation_epochs": 3}),
    Trial(BALANCED, {"train.later_learning_rate": 0.015}),
    Trial(BALANCED, {"train.later_learning_rate": 0.005}),
    Trial(PLAIN, {}),
    Trial(PLAIN, {"train.later_learning_rate": 0.015}),
    Trial(PLAIN, {"train.later_learning_rate": 0.005}),
    Trial(BALANCED, {}, "der"),
    Trial(BALANCED, {"train.finetuning": "always"}, "der"),
    Trial(PLAIN, {}, "der"),
)


def table() -> str:
    """Make the table of the finished trials."""
    titles = " | ".join(small.COLUMNS.values())
    lines = [
        f"| method | loss | fields | seeds | {titles} | NME average |",
        "|---" * (5 + len(small.COLUMNS)) + "|",
    ]
    for trial in TRIALS:
        found = common.read([trial.path(seed) for seed in small.SEEDS])
        if found:
            fields = ", ".join(f"`{path}={value}`" for path, value in trial.fields.items()) or "-"
            row = " | ".join(small.cells(found))
            lines.append(f"| `{trial.method}` | `{trial.loss}` | {fields} | {len(found)} | {row} |")
    return "\n".join(lines)


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--data_dir")
    parser.add_argument("--table", action="store_true", help="write the page, train nothing")
    args = parser.read()
    if args.table == bool(args.data_dir):
        raise UserError("give either --data_dir, to train, or --table, to write the page")
    if args.table:
        common.fill(small.PAGE, "table of trials", table())
        return
    data_dir = os.path.abspath(args.data_dir)
    for seed in small.SEEDS:
        for trial in TRIALS:
            parts = (trial.method, trial.loss, seed, small.EPOCHS[0], data_dir)
            small.train(*parts, more=trial.fields, file=trial.path(seed))


if __name__ == "__main__":
    exit_on_user_error(main)
