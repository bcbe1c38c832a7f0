"""All methods with and without the balanced loss, on a CIFAR-100 that two CPU cores can train.

    .venv/bin/python benchmarks/small.py --data_dir data            # trains what is missing
    .venv/bin/python benchmarks/small.py --table                    # writes docs/results_small.md

10 of the 100 classes (the first of the seed's shuffle) in 5 tasks of 2, images averaged down to
16x16, a ResNet-8, 10 exemplars a class. Finished runs are files under benchmarks/results/small/.
`--seeds`, `--methods` and `--losses` take a part, so that two processes can share the work;
`--epochs` other than 5 makes a study of its own.
"""

import argparse
import os
from typing import Any

import common

from bsce_jax.data import load
from bsce_jax.errors import exit_on_user_error
from bsce_jax.methods import method_class, method_names
from bsce_jax.scenario import class_order

PAGE = common.ROOT / "docs" / "results_small.md"
LOSSES = ("cross_entropy", "balanced_softmax")
ALL_LOSSES = (*LOSSES, "nca", "balanced_nca")
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


def path(method: str, loss: str, seed: int, epochs: int) -> Any:
    return common.RESULTS / "small" / f"{epochs}_epochs" / f"{method}-{loss}-{seed}.json"


def train(method: str, loss: str, seed: int, epochs: int, data_dir: str) -> None:
    order = class_order(seed, load("cifar100", data_dir).num_classes)[:CLASSES]
    fields = {
        **FIELDS,
        "train.epochs": epochs,
        "seed": seed,
        "dataset.data_dir": data_dir,
        "scenario.class_order": ",".join(map(str, order)),
    }
    if method_class(method).memory:
        fields["memory.size"] = EXEMPLARS
    config = f"cifar100.py:method={method},loss={loss},base=0,increment={INCREMENT}"
    common.train(path(method, loss, seed, epochs), config, fields)


def table(epochs: int) -> str:
    """Makes the table of the methods that some seed has finished with more than one loss."""
    titles = " | ".join(COLUMNS.values())
    lines = [
        f"| method | loss | seeds | {titles} | NME average |",
        "|---" * (4 + len(COLUMNS)) + "|",
    ]
    for method in sorted(method_names()):
        done = {
            loss: found
            for loss in ALL_LOSSES
            if (found := common.read([path(method, loss, seed, epochs) for seed in SEEDS]))
        }
        for loss, found in done.items() if len(done) > 1 else ():
            cells = [figure(found, "cnn", column) for column in COLUMNS]
            cells.append(figure(found, "nme", "average_incremental"))
            lines.append(f"| `{method}` | `{loss}` | {len(found)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def figure(found: list[dict[str, Any]], kind: str, name: str) -> str:
    if any(one[kind] is None for one in found):
        return "-"
    values = [one[kind][name] for one in found]
    return common.mean_and_deviation([v[-1] if isinstance(v, list) else v for v in values])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--methods", nargs="*", default=sorted(method_names()))
    parser.add_argument("--losses", nargs="*", default=LOSSES)
    parser.add_argument("--epochs", type=int, default=EPOCHS[0])
    parser.add_argument("--table", action="store_true", help="write the page, train nothing")
    args = parser.parse_args()
    if args.table:
        for epochs in EPOCHS:
            common.fill(PAGE, f"table of {epochs} epochs", table(epochs))
        return
    for seed in args.seeds:
        for method in args.methods:
            for loss in args.losses:
                train(method, loss, seed, args.epochs, os.path.abspath(args.data_dir))


if __name__ == "__main__":
    exit_on_user_error(main)
