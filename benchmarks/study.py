"""The table of the paper as a list of runs: methods with and without the balanced loss.

    .venv/bin/python benchmarks/study.py --data_dir data              # trains what is missing
    .venv/bin/python benchmarks/study.py --data_dir data --recipe short      # for weeks of a CPU
    .venv/bin/python benchmarks/study.py --data_dir data --recipe reduced    # for days of a CPU
    .venv/bin/python benchmarks/study.py --list                       # lists what is missing
    .venv/bin/python benchmarks/tables.py                             # writes docs/results.md

CIFAR-100, the most important runs first: base 50 in increments of 10 (il_baseline, lucir and podnet
before the other methods), then of 5, 2 and 1, each with 20 exemplars a class; then base 0 in
increments of 10, 20 and 5 with 2,000 exemplars in total. There are three seeds, each with its own
class order; the first has that of seed 1993. A finished run is a file under
benchmarks/results/study/, and is not trained again. Several processes can share the work with
--seeds; those of one seed share first tasks, and only one process at a time can train one.

Runs whose first task is the same share its training, which is a run of its own in runs/: the losses
and increments of a method, and methods of `ALIKE`. The models in benchmarks/bases/ are first tasks
that need not be trained.

The short recipe is `cifar100:recipe=short`: 30 epochs of the first task and 10 of each later one.
The reduced study is base 50 in increments of 10 at 16x16 pixels with a ResNet-8 and 20 epochs.
`--config.field=value` sets a field of all runs, such as --config.runtime.dtype=bfloat16; a finished
run that had another value is an error.
"""

import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import common

from bsce_jax import scenario
from bsce_jax.cli import Parser
from bsce_jax.errors import UserError, exit_on_user_error, unknown
from bsce_jax.methods import METHODS as REGISTERED
from bsce_jax.runs.start import PLAIN, SELF_DISTILLATION


class Protocol(NamedTuple):
    """Tasks, memory and augmentation of a run; None is the config's own augmentation."""

    base: int
    increment: int
    policy: str = "per_class"
    size: int = 20
    augmentation: str | None = None

    @property
    def name(self) -> str:
        return f"base{self.base}_increment{self.increment}"


# with the augmentation of the published figures of each protocol
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
ANALYTIC = ("acil", "ds_al")  # for a base of many classes
OTHERS = ("icarl", "bic", "wa", "ss_il", "replay", *ANALYTIC, "der", "memo")
METHODS = (*FIRST, *OTHERS, "eeil", "ccil", "afc", "foster")
# method -> another one whose first task has the same network and the same training
ALIKE = {
    "afc": "podnet",
    **dict.fromkeys(("bic", "wa", "ss_il", "replay", *ANALYTIC), "il_baseline"),
}
ORDERS = (1993, 1, 2)  # of the classes, by seed
CLASSES = 100
BASES = pathlib.Path(__file__).resolve().parent / "bases"
# recipe -> folder of its results
RECIPES = {"published": "study", "short": "study_short", "reduced": "study_reduced"}
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
    recipe: str = "published"

    @property
    def path(self) -> pathlib.Path:
        name = f"{self.method}-{self.loss}-{self.seed}.json"
        return common.RESULTS / RECIPES[self.recipe] / self.protocol.name / name

    @property
    def config(self) -> str:
        """Name the config file with its arguments."""
        recipe = "short" if self.recipe == "short" else "published"
        base, increment, *_ = self.protocol
        arguments = f"method={self.method},loss={self.loss},base={base},increment={increment}"
        return f"cifar100.py:{arguments},recipe={recipe}"

    def fields(self) -> dict[str, Any]:
        """Choose the fields that differ from the config file's."""
        _, _, policy, size, augmentation = self.protocol
        keeps = REGISTERED[self.method].memory
        return {
            "seed": self.seed,
            "scenario.class_order": ORDERS[self.seed],
            **({"memory.policy": policy, "memory.size": size} if keeps else {}),
            **({"method.width": 8192} if self.method in ANALYTIC else {}),
            **({"train.augmentation": augmentation} if augmentation else {}),
            **(REDUCED if self.recipe == "reduced" else {}),
        }

    def train(self, more: dict[str, Any]) -> None:
        """Train the run from the model of its first task, unless its file exists.

        Raises:
          UserError: its file is of a run with other fields.
        """
        fields = {**self.fields(), **more}
        common.check(self.path, fields)
        if not self.path.exists():
            start = {"train.init_from": self.first_task(more)}
            common.train(self.path, self.config, {**fields, **start})

    def first_task(self, more: dict[str, Any]) -> pathlib.Path:
        """Return the folder of the run of the first task; train it unless its model exists.

        Self-distillation goes on from the run without it.
        """
        method = ALIKE.get(self.method, self.method)
        loss = "cross_entropy" if self.loss in PLAIN else self.loss
        classes = self.protocol.base or self.protocol.increment
        alone = Protocol(0, classes, *self.protocol[2:])
        run = Run(alone, method, loss, self.seed, self.recipe)
        order = scenario.class_order(ORDERS[self.seed], CLASSES)[:classes]
        other = [f"{path}={more[path]}" for path in sorted(more.keys() - set(common.PLACES))]
        name = "-".join([run.path.stem, *other]) + ".json"
        file = run.path.parent.parent / f"first_{classes}" / name
        kept = BASES / file.relative_to(common.RESULTS).with_suffix("")
        if kept.exists():
            return kept
        folder = common.folder_of(file)
        if not (folder / "results.json").exists():
            fields = {**run.fields(), **more, "scenario.class_order": ",".join(map(str, order))}
            if more.get(SELF_DISTILLATION):
                without = {path: more[path] for path in more.keys() - {SELF_DISTILLATION}}
                # relative to here, since the model has the path, and may be kept for others
                fields["train.init_from"] = os.path.relpath(self.first_task(without))
            common.train_in(folder, run.config, fields)
        return folder


def all_runs(recipe: str) -> Iterator[Run]:
    """List the runs, the most important ones first."""
    for protocol in PROTOCOLS[:1] if recipe == "reduced" else PROTOCOLS:
        for group in (FIRST, METHODS[len(FIRST) :]):
            for seed in range(len(ORDERS)):
                for method in group:
                    if method in ANALYTIC and not protocol.base:
                        continue
                    for loss in common.losses(method):
                        yield Run(protocol, method, loss, seed, recipe)


def main() -> None:
    parser = Parser(takes_fields=True, description=__doc__)
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--recipe", default="published")
    parser.add_argument("--seeds", type=int, nargs="*", default=range(len(ORDERS)))
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--protocols", nargs="*", default=[p.name for p in PROTOCOLS])
    parser.add_argument("--results", help="where the files of finished runs are, and runs/ is")
    parser.add_argument("--list", action="store_true", help="train nothing")
    args = parser.read()
    if args.results:
        common.RESULTS = pathlib.Path(args.results).resolve()
        common.RUNS = common.RESULTS / "runs"
    if args.recipe not in RECIPES:
        raise unknown("recipe", args.recipe, RECIPES)
    for method in set(args.methods) - set(METHODS):
        raise unknown("method of the study", method, METHODS)
    for protocol in set(args.protocols) - {p.name for p in PROTOCOLS}:
        raise unknown("protocol", protocol, [p.name for p in PROTOCOLS])
    for seed in set(args.seeds) - set(range(len(ORDERS))):
        raise unknown("seed", seed, range(len(ORDERS)))
    if args.list and args.overrides:
        raise UserError(f"--list trains nothing: leave out --config.{next(iter(args.overrides))}")
    more = {"dataset.data_dir": args.data_dir, **args.overrides}
    for run in all_runs(args.recipe):
        wanted = run.method in args.methods and run.protocol.name in args.protocols
        if wanted and run.seed in args.seeds:
            if not args.list:
                run.train(more)
            elif not run.path.exists():
                print(run.path.relative_to(common.RESULTS))


if __name__ == "__main__":
    exit_on_user_error(main)
