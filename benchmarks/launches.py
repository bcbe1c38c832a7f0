"""The training step as XLA compiles it for an NVIDIA H200, on a machine without one.

    .venv/bin/python -m pip install --no-deps --target runs/cuda \\
        jax-cuda13-plugin==0.10.2 jax-cuda13-pjrt==0.10.2    # the version of jax in .venv
    JAX_PLATFORMS=cpu PYTHONPATH=runs/cuda .venv/bin/python benchmarks/launches.py

A small network on a fast device waits for the launches of its kernels, so their number says more
about the time of a step than the number of operations. Prints for each stage of the first and of a
later task of each method:

  kernels       kernels that the device runs in a step, convolutions included
  convolutions  kernels that are convolutions; cuDNN may use more than one for each
  launches      launches by the host in a step: of a kernel, or of a command buffer of 5 or more
                kernels; a command buffer has no convolutions
  memory        MB of temporary memory of the program, besides its arguments

Convolutions are not tuned and nothing is timed. `--config.field=value` sets fields of the config.
"""

import itertools
import pathlib
import re
import tempfile
from typing import Any

import throughput
from jax.experimental import topologies
from recorder import Recorder, compile_step

from bsce_jax.cli import Parser
from bsce_jax.errors import UserError, exit_on_user_error
from bsce_jax.loading import make_config
from bsce_jax.training.problem import Problem

# from NVIDIA's data sheets, and for what they lack from CUDA's device properties
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
    parser = Parser(takes_fields=True, description=__doc__)
    parser.add_argument("--methods", nargs="+", default=["il_baseline", "podnet"])
    args = parser.read()
    devices = h200()
    print("| method | task | stage | kernels | convolutions | launches | memory, MB |")
    print("|---|---|---|---|---|---|---|")
    for method in args.methods:
        fields = {"runtime.dtype": "bfloat16", **args.overrides}
        config = make_config(f"cifar100:method={method}", fields)
        trainer = Recorder(Problem(config, throughput.random_images(config, per_class=50)))
        for task in (0, 1):
            begun = throughput.begin(trainer, task)
            for work in begun.works:
                with tempfile.TemporaryDirectory() as folder:
                    options = {"xla_gpu_autotune_level": "0", "xla_dump_to": folder}
                    compiled = compile_step(trainer, begun, work, devices, "cuda", options)
                    memory = compiled.memory_analysis().temp_size_in_bytes
                    (thunks,) = pathlib.Path(folder).glob("*chunk*thunk_sequence_after*")
                    counts = count(thunks.read_text())
                cells = [method, "later" if task else "first", work.stage.name, *counts]
                print(f"| {' | '.join(map(str, cells))} | {round(memory / 2**20)} |", flush=True)


def h200(shape: str = "1x1x1") -> Any:
    """Describe H200s to jax, in a shape of slices x hosts x GPUs."""
    try:
        topology = topologies.get_topology_desc("h200", "cuda", target_config=H200, topology=shape)
    except NotImplementedError:
        raise UserError("jax finds no plugin for cuda: see the top of this file") from None
    return topology.devices


def count(thunks: str) -> tuple[int, int, int]:
    """Count kernels, convolutions and launches in the body of the loop over steps."""
    after = thunks.partition("\n  body:\n")[2].split("\n")
    body = "\n".join(itertools.takewhile(lambda line: line.startswith("    "), after))
    places = re.findall(r"^( +)\d+: (\w+)", body, re.MULTILINE)
    kinds = [kind for _, kind in places if kind != "kCommandBuffer"]
    return len(kinds), kinds.count("kConvolution"), sum(len(indent) == 4 for indent, _ in places)


if __name__ == "__main__":
    exit_on_user_error(main)
