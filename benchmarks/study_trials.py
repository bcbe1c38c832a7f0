"""Trials of fields that the study leaves as they are.

    .venv/bin/python benchmarks/study_trials.py --data_dir data      # trains what is missing
    .venv/bin/python benchmarks/study_trials.py --table              # writes docs/results.md

Base 50 in increments of 10, most with the reduced recipe. The heads that are solved, mirrored
images and a low later rate are also tried with the short one. The runs of a recipe, a seed and a
backbone with its head share the first task, those with fields that concern it one with these
fields. `benchmarks/study.py` trains it if it is not there. Finished runs are files under
benchmarks/results/trials_reduced/ and trials_short/.
"""

import pathlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import common
import study
from tables import PAGE, figure

from bsce_jax.cli import Parser
from bsce_jax.errors import UserError, exit_on_user_error, unknown
from bsce_jax.runs.start import SELF_DISTILLATION, of_first_task

BALANCED, PLAIN = "balanced_softmax", "cross_entropy"
SEEDS = (0, 1, 2)


class Trial(NamedTuple):
    """A method with a loss and fields that differ from the study's."""

    method: str
    loss: str = PLAIN
    fields: Mapping[str, Any] = MappingProxyType({})
    recipe: str = "reduced"

    def run(self, seed: int) -> study.Run:
        """Choose the run of the study that it is a variant of."""
        return study.Run(study.PROTOCOLS[0], self.method, self.loss, seed, self.recipe)

    def path(self, seed: int) -> pathlib.Path:
        """Name the file of its run."""
        fields = "-".join(f"{path}={value}" for path, value in self.fields.items())
        name = "-".join(filter(None, [self.method, self.loss, fields, str(seed)]))
        return common.RESULTS / f"trials_{self.recipe}" / f"{name}.json"

    def train(self, seed: int, data_dir: str) -> None:
        """Train its run, unless its file exists."""
        if self.path(seed).exists():
            return
        run, more = self.run(seed), {"dataset.data_dir": data_dir}
        start = {"train.init_from": run.first_task({**more, **of_first_task(self.fields)})}
        common.train(self.path(seed), run.config, {**run.fields(), **more, **self.fields, **start})


def ridge(width: int, gamma: float = 0.1, method: str = "acil") -> Trial:
    """Make a trial of a head that is solved."""
    fields = {"method.width": width, "method.gamma": gamma}
    return Trial(method, PLAIN, fields, "short")


LATER, FLIP = "train.later_learning_rate", "model.flip"
# what may make a first task better for a head that is solved
FIRST_TASKS: tuple[dict[str, Any], ...] = (
    {"train.schedule": "cosine"},
    {"train.average": 0.99},
    {"train.decorrelation": 0.5},
    {SELF_DISTILLATION: 10},
)
TRIALS = {
    "reduced": (
        Trial("il_baseline", BALANCED),
        Trial("il_baseline", BALANCED, {LATER: 0.03}),
        Trial("il_baseline", BALANCED, {LATER: 0.01}),
        Trial("il_baseline", BALANCED, {FLIP: True}),
        Trial("il_baseline", BALANCED, {"train.average": 0.99}),
        *(Trial("il_baseline", BALANCED, {"train.sharpness": r}) for r in (0.05, 0.1, 0.2)),
        Trial("il_baseline"),
        Trial("il_baseline", PLAIN, {LATER: 0.03}),
        Trial("il_baseline", PLAIN, {LATER: 0.01}),
        Trial("il_baseline", PLAIN, {"method.weighting": "convex"}),
        Trial("wa"),
        Trial("acil", PLAIN, {"method.width": 2048}),
        Trial("ds_al", PLAIN, {"method.width": 2048}),
        *(Trial("ds_al", PLAIN, {"method.width": 2048, **fields}) for fields in FIRST_TASKS),
        Trial("podnet", BALANCED),
        Trial("podnet", BALANCED, {LATER: 0.03}),
        Trial("podnet", BALANCED, {LATER: 0.01}),
        Trial("podnet", BALANCED, {FLIP: True}),
        Trial("podnet", BALANCED, {SELF_DISTILLATION: 10}),
        Trial("der", BALANCED),
        Trial("der", BALANCED, {"train.finetuning": "always"}),
        Trial("der"),
    ),
    "short": (
        Trial("il_baseline", BALANCED, {LATER: 0.01}, "short"),
        Trial("lucir", BALANCED, {LATER: 0.01}, "short"),
        Trial("podnet", BALANCED, {LATER: 0.01}, "short"),
        Trial("podnet", BALANCED, {FLIP: True}, "short"),
        Trial("podnet", BALANCED, {LATER: 0.01, FLIP: True}, "short"),
        Trial("podnet", BALANCED, {SELF_DISTILLATION: 20, FLIP: True}, "short"),
        Trial("podnet", BALANCED, {SELF_DISTILLATION: 20, LATER: 0.01, FLIP: True}, "short"),
        Trial(
            "podnet",
            BALANCED,
            {SELF_DISTILLATION: 20, FLIP: True, "scenario.increment": 5},
            "short",
        ),
        Trial("acil", PLAIN, {FLIP: True}, "short"),
        Trial("ds_al", PLAIN, {FLIP: True}, "short"),
        *(ridge(width) for width in (64, 256, 1024, 2048, 4096)),
        *(ridge(2048, gamma) for gamma in (0.001, 1.0, 10.0, 100.0)),
        *(ridge(width, method="ds_al") for width in (1024, 2048)),
    ),
}


def table(recipe: str) -> str:
    """Make the table of the finished trials of a recipe."""
    titles = "average incremental | last | forgetting | NME average"
    lines = [f"| method | loss | fields | seeds | {titles} |", "|---" * 8 + "|"]
    for trial in TRIALS[recipe]:
        if found := common.read([trial.path(seed) for seed in SEEDS]):
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
    parser.add_argument("--recipes", nargs="*", default=TRIALS)
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--table", action="store_true", help="write the page, train nothing")
    args = parser.read()
    if args.table == bool(args.data_dir):
        raise UserError("give either --data_dir, to train, or --table, to write the page")
    if args.table:
        for recipe in TRIALS:
            common.fill(PAGE, f"{recipe} trials", table(recipe))
        return
    for recipe in set(args.recipes) - set(TRIALS):
        raise unknown("recipe of the trials", recipe, TRIALS)
    for seed in set(args.seeds) - set(SEEDS):
        raise unknown("seed", seed, SEEDS)
    for seed in args.seeds:
        for recipe in args.recipes:
            for trial in TRIALS[recipe]:
                trial.train(seed, args.data_dir)


if __name__ == "__main__":
    exit_on_user_error(main)
