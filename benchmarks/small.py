"""All methods with and without the balanced loss, on a CIFAR-100 that two CPU cores can train.

    .venv/bin/python benchmarks/small.py --data_dir data            # trains what is missing
    .venv/bin/python benchmarks/small.py --table                    # writes docs/results_small.md

10 of the 100 classes (the first of the seed's shuffle) in 5 tasks of 2, images averaged down to
16x16, a ResNet-8, 10 exemplars a class. Each finished run is a small JSON file under
benchmarks/results/small/; those that are there are not trained again. `--seeds` and `--methods`
take a part, so that two processes can share the work.
"""

import argparse
import json
import os
import pathlib
import statistics
import tempfile
from typing import Any

from bsce_jax.data import load
from bsce_jax.files import write_json
from bsce_jax.methods import method_class, method_names
from bsce_jax.scenario import class_order
from bsce_jax.train import parse
from bsce_jax.training.run import run

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "small"
PAGE = ROOT / "docs" / "results_small.md"
LOSSES = ("cross_entropy", "balanced_softmax")
SEEDS = (0, 1, 2)
CLASSES, INCREMENT, EXEMPLARS, EPOCHS = 10, 2, 10, 5
FIELDS = {
    "dataset.image_size": 16,
    "memory.policy": "per_class",
    "model.name": "resnet8",
    "train.augmentation": "flip",
    "train.batch_size": 32,
    "train.epochs": EPOCHS,
    "train.learning_rate": 0.05,
}


def train(method: str, loss: str, seed: int, data_dir: str) -> None:
    """Trains one run and keeps its figures, unless they are there."""
    path = RESULTS / f"{method}-{loss}-{seed}.json"
    if path.exists():
        return
    order = class_order(seed, load("cifar100", data_dir).num_classes)[:CLASSES]
    fields = {
        **FIELDS,
        "seed": seed,
        "dataset.data_dir": data_dir,
        "scenario.class_order": ",".join(map(str, order)),
    }
    if method_class(method).memory:
        fields["memory.size"] = EXEMPLARS
    config = f"{ROOT}/configs/cifar100.py:method={method},loss={loss},base=0,increment={INCREMENT}"
    with tempfile.TemporaryDirectory() as folder:
        argv = [f"--config={config}", f"--workdir={folder}/run"]
        argv += [f"--config.{name}={value}" for name, value in fields.items()]
        results = run(*parse(argv))
    keep = ("method", "loss", "tasks", "cnn", "nme", "timing", "environment")
    write_json(path, {"seed": seed, "fields": FIELDS, **{key: results[key] for key in keep}})


def figure(runs: list[dict[str, Any]], kind: str, name: str) -> str:
    """Says the mean and the standard deviation of a figure over the seeds."""
    if any(r[kind] is None for r in runs):
        return "-"
    values = [r[kind][name][-1] if name in ("old", "new") else r[kind][name] for r in runs]
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def table() -> str:
    """Makes the table of the methods that two seeds or more have finished with both losses."""
    columns = ("average_incremental", "last", "old", "new", "forgetting")
    lines = [
        "| method | loss | seeds | average incremental | last | old, last task | new, last task "
        "| forgetting | NME average |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for method in sorted(method_names()):
        files = {
            seed: [RESULTS / f"{method}-{loss}-{seed}.json" for loss in LOSSES] for seed in SEEDS
        }
        done = [pair for pair in files.values() if all(file.exists() for file in pair)]
        if len(done) < 2:
            continue
        for loss, paths in zip(LOSSES, zip(*done, strict=True), strict=True):
            runs = [json.loads(path.read_text()) for path in paths]
            cells = [figure(runs, "cnn", column) for column in columns]
            cells.append(figure(runs, "nme", "average_incremental"))
            lines.append(f"| `{method}` | `{loss}` | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--methods", nargs="*", default=sorted(method_names()))
    parser.add_argument("--table", action="store_true", help="write the page, train nothing")
    args = parser.parse_args()
    if args.table:
        text = PAGE.read_text()
        start, end = "<!-- table -->\n", "<!-- end -->"
        before, after = text.split(start)[0], text.split(end)[1]
        PAGE.write_text(f"{before}{start}{table()}\n{end}{after}")
        return
    for seed in args.seeds:
        for method in args.methods:
            for loss in LOSSES:
                train(method, loss, seed, os.path.abspath(args.data_dir))


if __name__ == "__main__":
    main()
