"""What a run found and chose, in a few lines before it trains."""

import itertools

import jax
from ml_collections import ConfigDict

from bsce_jax import hosts
from bsce_jax.data.feed import Feed
from bsce_jax.data.stream import FEEDS
from bsce_jax.scenario import Scenario
from bsce_jax.training.trainer import Trainer


def overview(trainer: Trainer) -> list[str]:
    """Say which images, tasks, method and devices a run has, in lines."""
    problem = trainer.problem
    config, dataset, scenario = problem.config, problem.dataset, problem.scenario
    left_out = dataset.num_classes - scenario.num_classes
    classes = f"{scenario.num_classes}{f' of {dataset.num_classes}' if left_out else ''} classes"
    shape = "x".join(map(str, dataset.image_shape))
    counts = [len(records) for records in problem.records]
    tests = len(problem.test_records(scenario.num_classes))
    test = "validate on" if config.dataset.validation else "test"
    each = f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,}-{max(counts):,}"
    return [
        f"data:    {dataset.name}, {classes}, images of {shape}",
        f"images:  {sum(counts):,} to train ({each} a class), {tests:,} to {test}",
        f"tasks:   {_tasks(scenario)}, {_memory(config)}",
        f"method:  {config.method.name} with {config.loss.name}, {config.model.name}, "
        f"seed {config.seed}",
        f"devices: {_devices()}, {_feed(trainer.feed, config)} feed",
    ]


def _tasks(scenario: Scenario) -> str:
    """Say how many classes the tasks have, such as "50 + 5 x 10 classes"."""
    groups = [(size, len(list(same))) for size, same in itertools.groupby(map(len, scenario.tasks))]
    if len(groups) > 4:
        sizes = sorted(size for size, _ in groups)
        return f"{scenario.num_tasks} of {sizes[0]} to {sizes[-1]} classes"
    parts = (f"{times} x {size}" if times > 1 else f"{size}" for size, times in groups)
    return f"{' + '.join(parts)} classes"


def _memory(config: ConfigDict) -> str:
    if not config.memory.size:
        return "no exemplars"
    shared = "a class" if config.memory.policy == "per_class" else "in total"
    return f"{config.memory.size:,} exemplars {shared}"


def _devices() -> str:
    """Count the devices by kind, such as "32 x NVIDIA H100 80GB HBM3 in 4 processes"."""
    kinds = [device.device_kind for device in jax.devices()]
    found = " + ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))
    return found if hosts.count() == 1 else f"{found} in {hosts.count()} processes"


def _feed(feed: Feed, config: ConfigDict) -> str:
    """Return the name of a feed, which `auto` leaves open."""
    return next((name for name in FEEDS if FEEDS[name] is type(feed)), config.runtime.feed)
