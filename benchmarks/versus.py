"""Time our training step and PyTorch's alternately on this machine, and print the speed ratio.

    .venv/bin/python -m pip install torch
    .venv/bin/python benchmarks/versus.py

A pair is a run of `python -m bsce_jax.bench --parts steps` and runs of benchmarks/pytorch.py, for
IL-baseline with ResNet-32 at batch 128. Prints a table of medians over the pairs; --out writes all
figures to a JSON file.
"""

import json
import os
import statistics
import subprocess
import sys
from typing import Any

import common

from bsce_jax.cli import Parser
from bsce_jax.errors import UserError, exit_on_user_error

OURS = ["--config=cifar100", "--parts=steps", "--methods=il_baseline"]
PEERS = {
    "PyTorch, DataLoader with 4 workers": ["--feed", "loader"],
    "PyTorch, images on the device": ["--feed", "resident"],
    "PyTorch, images on the device, channels last": ["--feed", "resident", "--channels_last"],
}


def ask(words: list[str]) -> dict[str, Any]:
    environ = {**os.environ, "PYTHONPATH": str(common.ROOT)}
    answer = subprocess.run(
        [sys.executable, *words], env=environ, stdout=subprocess.PIPE, check=True
    )
    report: dict[str, Any] = json.loads(answer.stdout)
    return report


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--out", help="a JSON file for all figures")
    args = parser.read()
    if args.pairs < 1:
        raise UserError(f"--pairs is {args.pairs}: at least 1 is right")
    ours = ["-m", "bsce_jax.bench", *OURS, f"--seconds={args.seconds}"]
    ours += ["--config.runtime.dtype=bfloat16"] if args.bfloat16 else []
    more = [f"--seconds={args.seconds}", *(["--bfloat16"] if args.bfloat16 else [])]
    program = str(common.ROOT / "benchmarks" / "pytorch.py")
    reports: dict[str, list[dict[str, Any]]] = {name: [] for name in ("bsce_jax", *PEERS)}
    for _ in range(args.pairs):
        reports["bsce_jax"].append(ask(ours))
        for name, words in PEERS.items():
            reports[name].append(ask([program, *words, *more]))
    speeds = {
        name: [
            statistics.median(report["steps"][later]["images_per_second"] for report in found)
            for later in (0, 1)
        ]
        for name, found in reports.items()
    }
    print("| program | first task, images/s | ratio | later task, images/s | ratio |")
    print("|---|---|---|---|---|")
    for name, figures in speeds.items():
        cells = [
            f"{speed:,.0f} | {mine / speed:.2f}"
            for speed, mine in zip(figures, speeds["bsce_jax"], strict=True)
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    if args.out:
        with open(args.out, "w") as file:
            json.dump(reports, file, indent=1)


if __name__ == "__main__":
    exit_on_user_error(main)
