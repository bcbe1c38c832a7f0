"""The table of the paper as a list of runs: methods with and without the balanced loss.

    .venv/bin/python benchmarks/study.py --data_dir data              # trains what is missing
    .venv/bin/python benchmarks/study.py --data_dir data --reduced    # for a CPU
    .venv/bin/python benchmarks/study.py --list                       # says what is missing
    .venv/bin/python benchmarks/tables.py                             # writes docs/results.md

CIFAR-100, what matters most first: base 50 in increments of 10 (il_baseline, lucir and podnet
before the rest), then of 5, 2 and 1, each with 20 exemplars a class; then base 0 in increments of
10, 20 and 5 with 2,000 exemplars in total. Three seeds, each with a class order of its own, the
first with that of seed 1993. A finished run is a file under benchmarks/results/study/, and is not
trained again; several processes share the work with --seeds and --methods.

Fields given as `--config.field=value` hold for all runs, such as --config.runtime.dtype=bfloat16.
The reduced study is base 50 in increments of 10 at 16x16 pixels with a ResNet-8 and 20 epochs.
"""

import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import common

from bsce_jax.errors import Parser, exit_on_user_error, unknown
from bsce_jax.methods import method_class


class Protocol(NamedTuple):
    """How the classes come, and what may be kept. Augmentation None: the config's own."""

    base: int
    increment: int
    policy: str = "per_class"
    size: int = 20
    augmentation: str | None = None

    @property
    def name(self) -> str:
        return f"base{self.base}_increment{self.increment}"


# what the published figures of each protocol were trained with
BRIGHTNESS = "crop+flip+brightness"
PROTOCOLS = (
    Protocol(50, 10),
    Protocol(50, 5),
    Protocol(50, 2),
    Protocol(50, 1),
    Protocol(0, 10, "total", 2000, BRIGHTNESS),
    Protocol(0, 20, "total", 2000, "crop+flip"),
    Protocol(0, 5, "total", 2000, BRIGHTNESS),
)
FIRST = ("il_baseline", "lucir", "podnet")
METHODS = (*FIRST, "icarl", "bic", "wa", "ss_il", "eeil", "replay")
ORDERS = (1993, 1, 2)  # of the classes, by seed
REDUCED = {
    "dataset.image_size": 16,
    "model.name": "resnet8",
    "train.augmentation": "flip",
    "train.epochs": 20,
}


class Run(NamedTuple):
    protocol: Protocol
    method: str
    loss: str
    seed: int
    reduced: bool = False

    @property
    def path(self) -> pathlib.Path:
        study = "study_reduced" if self.reduced else "study"
        name = f"{self.method}-{self.loss}-{self.seed}.json"
        return common.RESULTS / study / self.protocol.name / name

    def train(self, more: dict[str, Any]) -> None:
        base, increment, policy, size, augmentation = self.protocol
        config = f"method={self.method},loss={self.loss},base={base},increment={increment}"
        fields = {
            "seed": self.seed,
            "scenario.class_order": ORDERS[self.seed],
            "memory.policy": policy,
            "memory.size": size,
            **({"train.augmentation": augmentation} if augmentation else {}),
            **(REDUCED if self.reduced else {}),
            **more,
        }
        common.train(self.path, f"cifar100.py:{config}", fields)


def losses(method: str) -> tuple[str, str]:
    """The loss that the method was published with, and the balanced one."""
    published = method_class(method).loss
    # il_baseline is the paper's own method
    return ("cross_entropy" if method == "il_baseline" else published, "balanced_softmax")


def all_runs(reduced: bool) -> Iterator[Run]:
    """Lists the runs, what matters most first."""
    for protocol in PROTOCOLS[:1] if reduced else PROTOCOLS:
        for group in (FIRST, METHODS[len(FIRST) :]):
            for seed in range(len(ORDERS)):
                for method in group:
                    for loss in losses(method):
                        yield Run(protocol, method, loss, seed, reduced)


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--reduced", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="*", default=range(len(ORDERS)))
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--list", action="store_true", help="train nothing")
    args, overrides = parser.parse_known_args()
    for method in set(args.methods) - set(METHODS):
        raise unknown("method of the study", method, METHODS)
    for seed in set(args.seeds) - set(range(len(ORDERS))):
        raise unknown("seed", seed, range(len(ORDERS)))
    more: dict[str, Any] = {"dataset.data_dir": os.path.abspath(args.data_dir)}
    for override in overrides:
        name, equals, value = override.partition("=")
        if not (name.startswith("--config.") and equals):
            parser.error(f"what is {override!r}? fields are set with --config.FIELD=VALUE")
        more[name.removeprefix("--config.")] = value
    for run in all_runs(args.reduced):
        if run.seed in args.seeds and run.method in args.methods:
            if not args.list:
                run.train(more)
            elif not run.path.exists():
                print(run.path.relative_to(common.RESULTS))


if __name__ == "__main__":
    exit_on_user_error(main)
