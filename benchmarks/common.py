"""Runs of a study: each trains in a folder of runs/, and only a file with its figures is kept.

A run whose file exists is not trained again. So a study resumes where it stopped, also within a
run, and several processes or machines can share it.
"""

import json
import pathlib
import shutil
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bsce_jax.errors import UserError
from bsce_jax.files import write_json
from bsce_jax.methods import METHODS
from bsce_jax.runs.results import is_whole
from bsce_jax.train import parse
from bsce_jax.training import compiler
from bsce_jax.training.loop import run

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS, RUNS = ROOT / "benchmarks" / "results", ROOT / "runs"
PLACES = ("dataset.data_dir", "train.init_from")
KEPT = ("method", "loss", "tasks", "cnn", "nme", "model", "timing", "environment")


# methods whose training is the same under the balanced loss, or that do not use it, and why
INDIFFERENT = {
    "joint": "all classes have their images in equal numbers",
    "fetril": "its own pseudo-features balance the classes",
    "lwf": "without exemplars its separated softmax is the balanced one",
    "icarl": "with a softmax loss it is il_baseline",
    "lwf_mc": "with a softmax loss it is lwf",
    "acil": "the loss trains the first task alone, whose classes have equal numbers of images",
    "ds_al": "likewise",
}


def losses(method: str) -> tuple[str, ...]:
    """List the losses to compare: the method's own and the balanced one, where they differ."""
    if method == "il_baseline":  # the balanced one is its own
        return ("cross_entropy", "balanced_softmax")
    own = METHODS[method].loss
    return (own,) if method in INDIFFERENT else (own, "balanced_softmax")


def train(path: pathlib.Path, config: str, fields: Mapping[str, Any]) -> None:
    """Train a config of `configs/` with fields overridden, unless its file exists."""
    if path.exists():
        return
    folder = folder_of(path)
    results = train_in(folder, config, fields)
    figures = {key: results[key] for key in KEPT}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"config": config, "fields": _without_places(fields), **figures})
    shutil.rmtree(folder)


def check(path: pathlib.Path, fields: Mapping[str, Any]) -> None:
    """Compare the fields of the finished run of a file, if it exists, with those of a run to train.

    Raises:
      UserError: they differ.
    """
    here = {name: str(value) for name, value in _without_places(fields).items()}
    for finished in read([path]):
        there = {name: str(value) for name, value in finished["fields"].items()}
        for name in sorted(here.keys() | there.keys()):
            if here.get(name) != there.get(name):
                raise UserError(
                    f"{path} was trained with {name}={there.get(name, 'as the config has it')}, "
                    f"not {here.get(name, 'as the config has it')}: give the same fields, "
                    "or another folder with --results"
                )


def _without_places(fields: Mapping[str, Any]) -> dict[str, Any]:
    # the places of the data and of the first task's model do not matter to the run
    return {name: value for name, value in fields.items() if name not in PLACES}


def folder_of(path: pathlib.Path) -> pathlib.Path:
    """Choose the folder of RUNS that the run of a file is trained in."""
    return RUNS / path.relative_to(RESULTS).with_suffix("")


def train_in(folder: pathlib.Path, config: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Train a config of `configs/` with fields overridden, and return its results."""
    print(f"{folder.relative_to(RUNS)}:", flush=True)
    argv = [f"--config={ROOT}/configs/{config}", f"--workdir={folder}"]
    argv += [f"--config.{field}={value}" for field, value in fields.items()]
    compiler.keep_programs()
    return run(*parse(argv))


def read(paths: Sequence[pathlib.Path]) -> list[dict[str, Any]]:
    """Read the files of the finished runs.

    Raises:
      UserError: one is damaged.
    """
    found = []
    for path in paths:
        if path.exists():
            try:
                value = json.loads(path.read_bytes())
            except (OSError, RecursionError, ValueError) as error:
                raise UserError(f"cannot read {path}: {error}") from error
            if not is_whole(value):
                raise UserError(f"{path} has not the figures of a run: remove it to train again")
            found.append(value)
    return found


def mean_and_deviation(values: Sequence[float], digits: int = 1) -> str:
    """Format `mean ± standard deviation`, or only the mean of a single value."""
    text = f"{statistics.mean(values):.{digits}f}"
    return text if len(values) < 2 else f"{text} ± {statistics.stdev(values):.{digits}f}"


def fill(page: pathlib.Path, mark: str, text: str) -> None:
    """Put text between `<!-- mark -->` and `<!-- end mark -->` of a page."""
    start, end = f"<!-- {mark} -->\n", f"<!-- end {mark} -->"
    before, found, rest = page.read_text("utf-8").partition(start)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{page} has no {start.strip()} with its end")
    page.write_text(f"{before}{start}{text}\n{end}{after}", "utf-8")
