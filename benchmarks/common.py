"""Runs of a study: each trains in a folder of runs/ and leaves nothing but its figures, in a file.

A file that is there is not trained again, so a study goes on where it stopped, in the middle of a
run too, and several processes or machines can share it.
"""

import json
import pathlib
import shutil
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bsce_jax.files import write_json
from bsce_jax.train import parse
from bsce_jax.training import compiler
from bsce_jax.training.run import run

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
KEPT = ("method", "loss", "tasks", "cnn", "nme", "timing", "environment")


def train(path: pathlib.Path, config: str, fields: Mapping[str, Any]) -> None:
    """Trains a config of `configs/` with fields overridden, unless `path` has its figures."""
    if path.exists():
        return
    name = path.relative_to(RESULTS)
    print(f"{name}:", flush=True)
    folder = ROOT / "runs" / name.with_suffix("")
    argv = [f"--config={ROOT}/configs/{config}", f"--workdir={folder}"]
    argv += [f"--config.{field}={value}" for field, value in fields.items()]
    compiler.keep_programs()
    results = run(*parse(argv))
    # where the data lay says nothing about the run
    said = {field: fields[field] for field in fields if field != "dataset.data_dir"}
    figures = {key: results[key] for key in KEPT}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"config": config, "fields": said, **figures})
    shutil.rmtree(folder)


def read(paths: Sequence[pathlib.Path]) -> list[dict[str, Any]]:
    """Reads the files of those that are finished."""
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def mean_and_deviation(values: Sequence[float], digits: int = 1) -> str:
    """Writes `mean ± standard deviation`, or the mean alone of a single value."""
    text = f"{statistics.mean(values):.{digits}f}"
    return text if len(values) < 2 else f"{text} ± {statistics.stdev(values):.{digits}f}"


def fill(page: pathlib.Path, mark: str, text: str) -> None:
    """Puts text between `<!-- mark -->` and `<!-- end mark -->` of a page."""
    start, end = f"<!-- {mark} -->\n", f"<!-- end {mark} -->"
    before, found, rest = page.read_text().partition(start)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{page} has no {start.strip()} with its end")
    page.write_text(f"{before}{start}{text}\n{end}{after}")
