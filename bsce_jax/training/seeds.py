"""The runs of several seeds, each in its folder, and their summary."""

import os
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from bsce_jax import config as config_lib
from bsce_jax import hosts
from bsce_jax.errors import UserError, using
from bsce_jax.files import write_json
from bsce_jax.runs import bucket, results
from bsce_jax.runs.folder import check_path, refuse_another_config
from bsce_jax.scenario import is_shuffle
from bsce_jax.training.display import Display
from bsce_jax.training.loop import run

SCHEMA = 1
FIGURES = ("average_incremental", "last", "forgetting")
COLUMNS = ("accuracy", "old", "new")  # with a value for each task


def run_seeds(
    config: ConfigDict,
    folder: str | os.PathLike[str],
    seeds: Sequence[int],
    *,
    own_orders: bool = True,
) -> dict[str, Any]:
    """Train a config with several seeds, or resume it; finished seeds are not trained again.

    Args:
      config: from a config file; its seed is replaced.
      folder: of all seeds; seed N is the run in its folder `seed_N`.
      seeds: at least one.
      own_orders: shuffle the classes of seed N by N, unless the config lists an order.

    Returns:
      The contents of `summary.json`, over all seeds that are finished in the folder; an empty dict
      in other processes than the main one.

    Raises:
      UserError: the folder has the run of a single seed, of another config or of other data; and as
        `training.loop.run`.
      Stopped: as `training.loop.run`.
    """
    if not bucket.is_remote(folder):
        check_path(folder)
    there = bucket.Local(folder, _is_read)
    path = there.folder
    if (path / "config.json").exists():
        raise UserError(f"{path} has the run of a single seed: choose another --workdir")
    configs = {seed: config_of(config, seed, own_orders) for seed in seeds}
    with using(path):
        for seed, own in _folders(path).items():
            refuse_another_config(own, config_of(config, seed, own_orders))
    display = Display(quiet=not hosts.is_main())
    for number, seed in enumerate(seeds, 1):
        run(configs[seed], pathlib.Path(folder) / f"seed_{seed}")
        display.line(f"{number} of {len(seeds)} seeds finished")
    if not hosts.is_main():
        return {}
    there = bucket.Local(folder, _is_read)
    path = there.folder
    summary = summarize(path)
    with using(path):
        write_json(path / "summary.json", summary)
    there.keep("summary.json")
    display.line(f"summary: {path / 'summary.json'}")
    return summary


def refuse_seeds(folder: str | os.PathLike[str]) -> None:
    """Check that a folder for a single run has no runs of several seeds.

    Raises:
      UserError: it has some.
    """
    there = bucket.Local(folder, _is_read)
    if _folders(there.folder):
        raise UserError(
            f"{folder} has runs of several seeds: say --seeds, or choose another --workdir"
        )


def config_of(config: ConfigDict, seed: int, own_orders: bool) -> ConfigDict:
    """Make the config of a seed; see `run_seeds`."""
    sections = config.to_dict()
    sections["seed"] = seed
    if own_orders and is_shuffle(config.scenario.class_order):
        sections["scenario"]["class_order"] = str(seed)
    return config_lib.from_dict(sections)


def summarize(folder: pathlib.Path) -> dict[str, Any]:
    """Compute mean and standard deviation over the finished seeds of a folder, at least one.

    Returns:
      `dataset`, `evaluated_on`, `flip`, `method` and `loss`; the `seeds`, and those `unfinished`;
      the number of `classes` seen after each task. For `cnn` and `nme` (null where a seed has none)
      the figures of `results.json` and its accuracies after each task. A figure is
      `{"mean", "std", "values"}` in %, `values` by seed; `std` is the sample's, null for a single
      seed. A figure that does not apply is null.

    Raises:
      UserError: the seeds have different data or tasks.
    """
    found = {seed: results.read(own) for seed, own in _folders(folder).items()}
    done = {seed: r for seed, r in found.items() if r and results.is_finished(r)}
    first, *others = done.values()
    what = ("dataset", "class_names", "evaluated_on")
    sizes = lambda result: [len(task) for task in result["tasks"]]
    if any(
        sizes(one) != sizes(first) or any(one.get(name) != first.get(name) for name in what)
        for one in others
    ):
        raise UserError(
            f"the seeds in {folder} were trained on different data or tasks: remove the old ones"
        )
    seen = [sum(map(len, first["tasks"][: t + 1])) for t in range(len(first["tasks"]))]
    return {
        "schema": SCHEMA,
        **{name: first.get(name) for name in ("dataset", "evaluated_on", "flip", "method", "loss")},
        "seeds": list(done),
        "unfinished": [seed for seed in found if seed not in done],
        "classes": seen,
        "cnn": _figures([r["cnn"] for r in done.values()]),
        "nme": _figures([r["nme"] for r in done.values()]),
    }


def _is_read(name: str) -> bool:
    """Tell whether a file is needed for a summary."""
    return name.endswith(("config.json", "results.json"))


def _folders(folder: pathlib.Path) -> dict[int, pathlib.Path]:
    """Find the runs of a folder, by seed."""
    found = {path.name.removeprefix("seed_"): path for path in folder.glob("seed_*")}
    numbers = sorted(int(text) for text in found if text.isdecimal())
    return {n: found[str(n)] for n in numbers if str(n) in found}


def _figures(each: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    """Summarise one kind of prediction over the seeds."""
    there = [one for one in each if one is not None]
    if len(there) < len(each):
        return None
    columns = {
        name: [_spread(values) for values in zip(*(one[name] for one in there), strict=True)]
        for name in COLUMNS
    }
    return {name: _spread([one[name] for one in there]) for name in FIGURES} | columns


def _spread(values: Sequence[float | None]) -> dict[str, Any] | None:
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(values):
        return None
    deviation = statistics.stdev(numbers) if len(numbers) > 1 else None
    return {"mean": statistics.mean(numbers), "std": deviation, "values": numbers}
