"""All methods with and without the balanced loss, on a CIFAR-100 that two CPU cores can train.

    .venv/bin/python benchmarks/small.py --data_dir data            # trains what is missing
    .venv/bin/python benchmarks/small.py --table                    # writes docs/results_small.md

10 of the 100 classes (the first of the seed's shuffle) in 5 tasks of 2, images reduced to 16x16, a
ResNet-8, 10 exemplars a class. Finished runs are files under benchmarks/results/small/. `--seeds`
and `--methods` select runs, so that two processes can share the work. `--losses` replaces the
method's own loss and the balanced one. Another number of `--epochs` than 5 is a separate study.
"""

import os
import pathlib
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import common

from bsce_jax.cli import Parser
from bsce_jax.data import load
from bsce_jax.errors import UserError, exit_on_user_error, unknown
from bsce_jax.methods import METHODS
from bsce_jax.methods.criterion import CRITERIA
from bsce_jax.scenario import class_order

PAGE = common.ROOT / "docs" / "results_small.md"
SEEDS = (0, 1, 2)
EPOCHS = (5, 60)
CLASSES, INCREMENT, EXEMPLARS = 10, 2, 10
FIELDS = {
    "dataset.image_size": 16,
    "memory.policy": "per_class",
    "model.name": "resnet8",
    "train.augmentation": "flip",
    "train.batch_size": 32,
    "train.learning_rate": 0.05,
}
COLUMNS = {
    "average_incremental": "average incremental",
    "last": "last",
    "old": "old, last task",
    "new": "new, last task",
    "forgetting": "forgetting",
}


def path(method: str, loss: str, seed: int, epochs: int) -> pathlib.Path:
    return common.RESULTS / "small" / f"{epochs}_epochs" / f"{method}-{loss}-{seed}.json"


def train(
    method: str,
    loss: str,
    seed: int,
    epochs: int,
    data_dir: str,
    *,
    more: Mapping[str, Any] = MappingProxyType({}),
    file: pathlib.Path | None = None,
) -> None:
    """Train a run, unless its file exists; `more` are fields of its own."""
    order = class_order(seed, load("cifar100", data_dir).num_classes)[:CLASSES]
    fields = {
        **FIELDS,
        "train.epochs": epochs,
        "seed": seed,
        "dataset.data_dir": data_dir,
        "scenario.class_order": ",".join(map(str, order)),
    }
    if METHODS[method].memory:
        fields["memory.size"] = EXEMPLARS
    if method == "foster":
        fields["method.compression_epochs"] = epochs
    config = f"cifar100.py:method={method},loss={loss},base=0,increment={INCREMENT}"
    common.train(file or path(method, loss, seed, epochs), config, {**fields, **more})


def table(epochs: int) -> str:
    """Make the table of the finished runs."""
    titles = " | ".join(COLUMNS.values())
    lines = [
        f"| method | loss | seeds | {titles} | NME average |",
        "|---" * (4 + len(COLUMNS)) + "|",
    ]
    for method in METHODS:
        losses = common.losses(method)
        if method not in common.INDIFFERENT:
            losses = tuple(dict.fromkeys((*losses, *CRITERIA)))
        for loss in losses:
            found = common.read([path(method, loss, seed, epochs) for seed in SEEDS])
            if not found:
                continue
            row = " | ".join(cells(found))
            lines.append(f"| `{method}` | `{loss}` | {len(found)} | {row} |")
    return "\n".join(lines)


def cells(found: list[dict[str, Any]]) -> list[str]:
    """Format the figures of some seeds."""
    own = [figure(found, "cnn", column) for column in COLUMNS]
    return [*own, figure(found, "nme", "average_incremental")]


def figure(found: list[dict[str, Any]], kind: str, name: str) -> str:
    if any(one[kind] is None for one in found):
        return "-"
    values = [one[kind][name] for one in found]
    last = [v[-1] if isinstance(v, list) else v for v in values]
    return "-" if None in last else common.mean_and_deviation(last)


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--losses", nargs="*", help="default: its own and the balanced one")
    parser.add_argument("--epochs", type=int, default=EPOCHS[0])
    parser.add_argument("--table", action="store_true", help="write the page, train nothing")
    args = parser.read()
    for method in args.methods:
        if method not in METHODS:
            raise unknown("method", method, METHODS)
    for loss in args.losses or ():
        if loss not in CRITERIA:
            raise unknown("loss", loss, CRITERIA)
    for seed in args.seeds:
        if seed not in SEEDS:
            raise unknown("seed", seed, SEEDS)
    if args.table:
        if len(sys.argv) > 2:
            raise UserError("--table writes all runs that are finished: give it alone")
        for epochs in EPOCHS:
            common.fill(PAGE, f"table of {epochs} epochs", table(epochs))
        return
    for seed in args.seeds:
        for method in args.methods:
            for loss in args.losses or common.losses(method):
                train(method, loss, seed, args.epochs, os.path.abspath(args.data_dir))


if __name__ == "__main__":
    exit_on_user_error(main)
