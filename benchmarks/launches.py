"""The training step as XLA compiles it for an NVIDIA H200, on a machine without one.

    .venv/bin/python -m pip install --no-deps --target runs/cuda \\
        jax-cuda13-plugin==0.10.2 jax-cuda13-pjrt==0.10.2    # the version of jax in .venv
    JAX_PLATFORMS=cpu PYTHONPATH=runs/cuda .venv/bin/python benchmarks/launches.py

A small network on a fast device waits for its kernels to be launched, so their number says more of
a step than its operations do. Prints, for the first and a later task of each method:

  kernels       what the device runs in a step, convolutions included
  convolutions  of these; each may take cuDNN more than one kernel
  launches      what the host starts in a step: a kernel, or a command buffer of 5 and more; there
                are no convolutions in these
  memory        MB that the program takes while it runs, beside its arguments

Convolutions are not tuned here, nothing is timed. Fields given as `--config.field=value` hold.
"""

import itertools
import pathlib
import re
import tempfile
from functools import partial
from typing import Any

import common
import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from bsce_jax.bench import example_stage, random_images
from bsce_jax.data.augment import make_augment, normalize
from bsce_jax.errors import Parser, UserError, exit_on_user_error
from bsce_jax.train import parse
from bsce_jax.training.experiment import Experiment
from bsce_jax.training.stage import fit
from bsce_jax.training.step import make_train_chunk

# from NVIDIA's data sheets and, where these are silent, from what CUDA reports of the device
H200 = """
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 }
  core_count: 132
  fpus_per_core: 128
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_core: 233472
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  clock_rate_ghz: 1.98
  memory_bandwidth: 4800000000000
  l2_cache_size: 62914560
  device_memory_size: 150754820096
}
platform_name: "CUDA"
runtime_version { major: 13 }
dnn_version_info { major: 9 minor: 12 }
device_description_str: "NVIDIA H200"
"""


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=["il_baseline", "podnet"])
    args, overrides = parser.parse_known_args()
    print("| method | task | kernels | convolutions | launches | memory, MB |")
    print("|---|---|---|---|---|---|")
    for method in args.methods:
        words = [f"--config={common.ROOT}/configs/cifar100.py:method={method}", "--workdir=."]
        config, _ = parse([*words, "--config.runtime.dtype=bfloat16", *overrides])
        for later in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                memory = compile_step(config, later, folder)
                (thunks,) = pathlib.Path(folder).glob("*chunk*thunk_sequence_after*")
                counts = count(thunks.read_text())
            cells = [method, "later" if later else "first", *counts, round(memory / 2**20)]
            print(f"| {' | '.join(map(str, cells))} |", flush=True)


def compile_step(config: ConfigDict, later: bool, dump: str) -> int:
    """Compiles a chunk of steps, XLA telling how in a folder; returns the bytes it works in."""
    experiment = Experiment(config, random_images(config, per_class=50))
    stage, teacher = example_stage(experiment, later)
    given: list[tuple[Any, ...]] = []

    def record(*arguments: Any) -> tuple[Any, dict[str, Any]]:
        given.append(arguments)
        return arguments[0], {}

    experiment.train_chunk = record
    next(fit(experiment, stage, experiment.train_state(experiment.initial_model), teacher, 0))
    try:
        topology = topologies.get_topology_desc(
            "h200", "cuda", target_config=H200, topology="1x1x1"
        )
    except NotImplementedError:
        raise UserError("jax finds no plugin for cuda: see the top of this file") from None
    mesh = Mesh(np.array(topology.devices), ("data",), axis_types=(AxisType.Auto,))
    on_device = NamedSharding(mesh, PartitionSpec())
    shapes = jax.tree.map(
        lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=on_device), given[0]
    )
    dataset = experiment.dataset
    chunk = make_train_chunk(
        experiment.network,
        experiment.method,
        experiment.loss,
        experiment.optimizer,
        make_augment(config.train.augmentation),
        partial(normalize, mean=dataset.mean, std=dataset.std),
        mesh,
    )
    options = {"xla_gpu_autotune_level": "0", "xla_dump_to": dump}
    lowered = chunk.trace(*shapes).lower(lowering_platforms=("cuda",))
    return lowered.compile(options).memory_analysis().temp_size_in_bytes


def count(thunks: str) -> tuple[int, int, int]:
    """Counts kernels, convolutions and launches in the body of the loop over steps."""
    after = thunks.partition("\n  body:\n")[2].split("\n")
    body = "\n".join(itertools.takewhile(lambda line: line.startswith("    "), after))
    places = re.findall(r"^( +)\d+: (\w+)", body, re.MULTILINE)
    kinds = [kind for _, kind in places if kind != "kCommandBuffer"]
    return len(kinds), kinds.count("kConvolution"), sum(len(indent) == 4 for indent, _ in places)


if __name__ == "__main__":
    exit_on_user_error(main)
