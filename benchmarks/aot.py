"""The training step as XLA compiles it for many chips, on a machine without one of them.

For the chips of a TPU slice, and for the GPUs of one host or of several (h200:HOSTSxGPUS):

    .venv/bin/python -m pip install --no-deps --target runs/tpu "libtpu==0.0.42.*"
    JAX_PLATFORMS=cpu PYTHONPATH=runs/tpu .venv/bin/python benchmarks/aot.py --topology v5e:4x4

    .venv/bin/python -m pip install --no-deps --target runs/cuda \\
        jax-cuda13-plugin==0.10.2 jax-cuda13-pjrt==0.10.2    # the version of jax in .venv
    JAX_PLATFORMS=cpu PYTHONPATH=runs/cuda .venv/bin/python benchmarks/aot.py --topology h200:1x8

Compiles the step of each stage of the first and of a later task, with the streamed feed. Prints a
line of JSON for each, per chip and step:

  compile_seconds    by the clock
  flops              operations; null for a GPU
  accessed_bytes     read and written; null for a GPU
  peak_bytes         of memory, at most; with the arguments
  argument_bytes     of state, teacher and batches
  output_bytes       of state and metrics
  aliased_bytes      of these, what is written over the donated state
  collectives        kind -> count, and bytes for each type of number

Exits with 1 and one line if something was gathered or exchanged, if sums over chips are not in
float32, if hardly all of the state is donated, or if the memory of a chip does not suffice.
`--config` names a config (imagenet_subset), and `--config.field=value` sets fields; the batch has
128 images a chip where none is set. Nothing is timed.
"""

import importlib.util
import json
import math
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import throughput
from jax.experimental import topologies
from launches import h200
from ml_collections import ConfigDict
from recorder import Recorder, compile_step

from bsce_jax.cli import Parser
from bsce_jax.data import Dataset
from bsce_jax.errors import UserError, exit_on_user_error
from bsce_jax.loading import make_config
from bsce_jax.training import mesh as mesh_lib
from bsce_jax.training.problem import Problem, check_batches

# bytes of a chip, from the makers' documentation; a chip is one device in these
MEMORY = {"v5e": 16e9, "v6e": 32e9, "h200": 141e9}
GPU = "h200"
COLLECTIVE = re.compile(
    r" = (\S.*?) (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(?:-start)?\("
)
# what libtpu must know where there is no TPU
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
Figures = dict[str, Any]


class Failed(UserError):
    """The step compiles, but not to what it should be."""

    exit_code = 1


def main(argv: list[str] | None = None) -> None:
    parser = Parser(takes_config=True, description=__doc__)
    parser.add_argument("--topology", default="v5e:4x4", help="such as v5e:4x4 or h200:1x8")
    args = parser.read(argv)
    version, chips = read_topology(args.topology)
    fields = {
        "train.batch_size": str(128 * chips),
        "runtime.feed": "streamed",
        "runtime.dtype": "bfloat16",
        **args.overrides,
    }
    config = make_config(args.config or "imagenet_subset", fields)
    check_batches(config, chips)
    devices = describe(args.topology)
    platform = "cuda" if version == GPU else "tpu"
    options = {"xla_gpu_autotune_level": "0"} if version == GPU else None  # nothing to tune on
    trainer = Recorder(Problem(config, blank_images(config)))
    shared = {
        "topology": args.topology,
        "chips": chips,
        "method": config.method.name,
        "loss": config.loss.name,
        "network": config.model.name,
        "classes": trainer.problem.scenario.num_classes,
        "image_size": trainer.problem.dataset.image_shape[0],
        "batch_size": config.train.batch_size,
        "dtype": config.runtime.dtype,
    }
    failures: list[str] = []
    for task in (0, 1):
        begun = throughput.begin(trainer, task)
        for work in begun.works:
            start = time.perf_counter()
            with mesh_lib.needing_memory(config.train.batch_size):
                compiled = compile_step(trainer, begun, work, devices, platform, options)
            seconds = round(time.perf_counter() - start, 1)
            figures = measure(compiled)
            name = f"{'a later' if task else 'the first'} task, {work.stage.name}"
            failures += [f"{name}: {text}" for text in check(figures, MEMORY[version])]
            row = {**shared, "step": name, "compile_seconds": seconds, **figures}
            print(json.dumps(row), flush=True)
    if failures:
        raise Failed("; ".join(failures))


def read_topology(name: str) -> tuple[str, int]:
    """Split the name of a topology into the version and the number of chips."""
    version, _, shape = name.partition(":")
    if version not in MEMORY or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)+", shape):
        valid = ", ".join(MEMORY)
        raise UserError(f"--topology is {name!r}: give VERSION:SHAPE such as v5e:4x4, of {valid}")
    return version, math.prod(map(int, shape.split("x")))


def describe(topology: str) -> Any:
    """Describe the chips to jax."""
    version, _, shape = topology.partition(":")
    if version == GPU:
        return h200(f"1x{shape}")
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            'no libtpu: pip install --no-deps --target runs/tpu "libtpu==0.0.42.*", and set '
            "PYTHONPATH=runs/tpu"
        )
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        return topologies.get_topology_desc(topology, "tpu").devices
    except jax.errors.JaxRuntimeError as error:
        said, *_ = str(error).splitlines()
        raise UserError(f"--topology is {topology!r}: {said}") from error


class BlankSource:
    """Black images that are made when they are read.

    Args:
      labels: [n].
      size: height and width.
    """

    identity = "blank"

    def __init__(self, labels: np.ndarray, size: int):
        self.labels = labels
        self.image_shape = (size, size, 3)

    def images(self, indices: Any) -> np.ndarray:
        return np.zeros((len(indices), *self.image_shape), np.uint8)

    def crops(self, indices: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        return self.images(indices)


def blank_images(config: ConfigDict) -> Dataset:
    """Make a data set with the number of classes and images that ImageNet has."""
    classes = 1000 if config.dataset.name == "imagenet" else throughput.CLASSES
    size = config.dataset.image_size or 32
    split = lambda count: BlankSource(np.repeat(np.arange(classes, dtype=np.int32), count), size)
    return Dataset(
        name="blank",
        train=split(1300),
        test=split(50),
        class_names=tuple(map(str, range(classes))),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    )


def measure(compiled: Any) -> Figures:
    """Read what XLA says of a compiled step, see the top of this file."""
    memory = compiled.memory_analysis()
    costs = compiled.cost_analysis() or {}  # none for a GPU that is not there
    return {
        "flops": costs.get("flops"),
        "accessed_bytes": costs.get("bytes accessed"),
        "peak_bytes": memory.peak_memory_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "aliased_bytes": memory.alias_size_in_bytes,
        "collectives": read_collectives(compiled.as_text()),
    }


def read_collectives(program: str) -> dict[str, Figures]:
    """Count the collectives of a program, and the bytes of their results by type of number."""
    found: dict[str, Figures] = {}
    for result, kind in COLLECTIVE.findall(program):
        figures = found.setdefault(kind, {"count": 0, "bytes": Counter()})
        figures["count"] += 1
        for dtype, shape in re.findall(r"\b([a-z]+\d\w*|pred)\[([\d,]*)\]", result):
            elements = math.prod(int(length) for length in shape.split(",") if length)
            figures["bytes"][dtype] += elements * _bits(dtype) // 8
    return found


def _bits(dtype: str) -> int:
    """Read the size of an XLA type from its name, such as bf16."""
    digits = re.search(r"\d+", dtype)
    return int(digits[0]) if digits else 8


def check(figures: Figures, memory: float) -> Iterator[str]:
    """Say in what a step is not as it should be.

    Args:
      figures: of `measure`.
      memory: bytes of a chip.
    """
    collectives = figures["collectives"]
    for kind in sorted(collectives.keys() & {"all-gather", "all-to-all"}):
        size = sum(collectives[kind]["bytes"].values())
        yield f"{collectives[kind]['count']} {kind} of {size:,} bytes: only sums need other chips"
    coarse = {"bf16", "f16"} & collectives.get("all-reduce", {"bytes": {}})["bytes"].keys()
    if coarse:
        yield f"sums over chips are in {' and '.join(sorted(coarse))}, not in f32"
    output, aliased = figures["output_bytes"], figures["aliased_bytes"]
    if aliased < 0.99 * output:
        yield f"{aliased:,} of {output:,} bytes of output are donated, and nearly all should be"
    if figures["peak_bytes"] >= memory:
        yield f"{figures['peak_bytes']:,} bytes of memory, and a chip has {memory:,.0f}"


if __name__ == "__main__":
    exit_on_user_error(main)
