"""Trials of what later tasks are trained with, on the reduced study.

    .venv/bin/python benchmarks/trials_reduced.py --data_dir data   # trains what is missing
    .venv/bin/python benchmarks/trials_reduced.py --table           # writes them to docs/results.md

Base 50 in increments of 10, 16x16 pixels, ResNet-8, 20 epochs a task. The runs of a seed share the
first task, which `benchmarks/study.py` trains if it is not there. Finished runs are files under
benchmarks/results/trials_reduced/.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import common
import study
from tables import PAGE, figure

from bsce_jax.cli import Parser
from bsce_jax.errors import UserError, exit_on_user_error, unknown

BALANCED, PLAIN = "balanced_softmax", "cross_entropy"
SEEDS = (0, 1, 2)


class Trial(NamedTuple):
    """A method with a loss and fields that differ from the reduced study's."""

    method: str
    loss: str
    fields: Mapping[str, Any] = MappingProxyType({})

    def run(self, seed: int) -> study.Run:
        """Choose the run of the study that it is a variant of."""
        return study.Run(study.PROTOCOLS[0], self.method, self.loss, seed, "reduced")

    def path(self, seed: int) -> pathlib.Path:
        """Name the file of its run."""
        fields = "-".join(f"{path}={value}" for path, value in self.fields.items())
        name = "-".join(filter(None, [self.method, self.loss, fields, str(seed)]))
        return common.RESULTS / "trials_reduced" / f"{name}.json"

    def train(self, seed: int, data_dir: str) -> None:
        """Train its run, unless its file exists."""
        run, more = self.run(seed), {"dataset.data_dir": data_dir}
        if not self.path(seed).exists():
            start = {"train.init_from": run.first_task(more)}
            fields = {**run.fields(), **more, **self.fields, **start}
            common.train(self.path(seed), run.config, fields)


LATER = "train.later_learning_rate"
TRIALS = (
    Trial("il_baseline", BALANCED),
    Trial("il_baseline", BALANCED, {LATER: 0.03}),
    Trial("il_baseline", BALANCED, {LATER: 0.01}),
    Trial("il_baseline", BALANCED, {"model.flip": True}),
    Trial("il_baseline", PLAIN),
    Trial("il_baseline", PLAIN, {LATER: 0.03}),
    Trial("il_baseline", PLAIN, {LATER: 0.01}),
    Trial("wa", PLAIN),
    Trial("acil", PLAIN, {"method.width": 2048}),
    Trial("ds_al", PLAIN, {"method.width": 2048}),
    Trial("der", BALANCED),
    Trial("der", BALANCED, {"train.finetuning": "always"}),
    Trial("der", PLAIN),
)


def table(seeds: Sequence[int]) -> str:
    """Make the table of the finished trials."""
    titles = "average incremental | last | forgetting | NME average"
    lines = [f"| method | loss | fields | seeds | {titles} |", "|---" * 8 + "|"]
    for trial in TRIALS:
        if found := common.read([trial.path(seed) for seed in seeds]):
            names = ("average_incremental", "last", "forgetting")
            cells = [figure(found, "cnn", name) for name in names]
            cells.append(figure(found, "nme", "average_incremental"))
            fields = ", ".join(f"`{path}={value}`" for path, value in trial.fields.items()) or "-"
            row = " | ".join(cells)
            lines.append(f"| `{trial.method}` | `{trial.loss}` | {fields} | {len(found)} | {row} |")
    return "\n".join(lines)


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--data_dir")
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--table", action="store_true", help="write the page, train nothing")
    args = parser.read()
    if args.table == bool(args.data_dir):
        raise UserError("give either --data_dir, to train, or --table, to write the page")
    for seed in set(args.seeds) - set(SEEDS):
        raise unknown("seed", seed, SEEDS)
    if args.table:
        common.fill(PAGE, "reduced trials", table(SEEDS))
        return
    for seed in args.seeds:
        for trial in TRIALS:
            trial.train(seed, os.path.abspath(args.data_dir))


if __name__ == "__main__":
    exit_on_user_error(main)
