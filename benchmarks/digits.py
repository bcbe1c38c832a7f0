"""The balanced softmax against plain cross-entropy on the digits, 5 seeds: README's table.

    .venv/bin/python benchmarks/digits.py

A seed is the seed of the run and of the class order. Runs are in runs/digits-LOSS/seed_N, and are
not trained again if they are finished.
"""

import pathlib

import common

from bsce_jax.cli import Parser
from bsce_jax.errors import exit_on_user_error
from bsce_jax.train import parse
from bsce_jax.training import compiler
from bsce_jax.training.seeds import run_seeds

SEEDS = range(5)
LOSSES = ("cross_entropy", "balanced_softmax")


def folder(loss: str) -> pathlib.Path:
    """Name the folder of a loss's runs."""
    return common.ROOT / "runs" / f"digits-{loss}"


def main() -> None:
    Parser(description=__doc__).read()
    compiler.keep_programs()
    print("| loss | last accuracy | average incremental | forgetting | old classes | new classes |")
    print("|---|---|---|---|---|---|")
    for loss in LOSSES:
        config = f"--config={common.ROOT}/configs/digits.py:loss={loss}"
        cnn = run_seeds(*parse([config, f"--workdir={folder(loss)}"]), SEEDS)["cnn"]
        figures = [cnn[name] for name in ("last", "average_incremental", "forgetting")]
        figures += [cnn[name][-1] for name in ("old", "new")]
        cells = [common.mean_and_deviation(figure["values"]) for figure in figures]
        print(f"| `{loss}` | {' | '.join(cells)} |")


if __name__ == "__main__":
    exit_on_user_error(main)
