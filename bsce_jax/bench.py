"""Measures how fast this machine trains: a JSON document on stdout, what is going on on stderr.

Examples:
  python -m bsce_jax.bench
      everything, for configs/cifar100.py
  python -m bsce_jax.bench --parts steps --methods il_baseline podnet
  python -m bsce_jax.bench --config configs/cifar100.py:loss=balanced_softmax \\
      --config.runtime.dtype=bfloat16 --config.train.batch_size=256

Parts:
  steps    ms a step and images/s of each method, in the first and in a later task, and as parts of
           the copy bandwidth and the matrix rate that the device reaches here
  devices  the step of the first method split over 1, 2 and 4 devices (on CPUs: over as many parts
           of the same cores)
  run      a whole short run: where its time goes
  tasks    the same images in 5, 10, 20 and 50 tasks: what a task costs apart from its steps

Images are random: no data set is needed. Exit codes: 0 done; 2 bad input.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from bsce_jax.data import Dataset, Split
from bsce_jax.errors import Parser, UserError, exit_on_user_error, unknown
from bsce_jax.methods import method_names
from bsce_jax.methods.base import ModelState
from bsce_jax.models import Classifier
from bsce_jax.models.conv import Conv
from bsce_jax.train import parse
from bsce_jax.training.experiment import Experiment
from bsce_jax.training.results import environment, peak_memory
from bsce_jax.training.run import run
from bsce_jax.training.stage import Stage, fit

CLASSES = 100
PARTS = ("steps", "devices", "run", "tasks")
METHODS = ("finetune", "il_baseline", "icarl", "lucir", "podnet")
Report = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = Parser(prog="python -m bsce_jax.bench", description=__doc__)
    parser.add_argument("--config", default="configs/cifar100.py", help="as of bsce_jax.train")
    parser.add_argument("--methods", nargs="+", default=METHODS, metavar="METHOD")
    parser.add_argument("--parts", nargs="+", default=PARTS, metavar="PART")
    parser.add_argument("--seconds", type=float, default=5, help="to measure a step for")
    args, overrides = parser.parse_known_args(argv)
    for part in set(args.parts) - set(PARTS):
        raise unknown("part", part, PARTS)
    for method in set(args.methods) - set(method_names()):
        raise unknown("method", method, method_names())

    file, _, values = args.config.partition(":")
    if "method=" in values:
        raise UserError(f"--config {args.config} names a method: say --methods instead")

    def config(method: str, *more: str) -> ConfigDict:
        chosen = ",".join(filter(None, [f"method={method}", values]))
        return parse([f"--config={file}:{chosen}", "--workdir=.", *overrides, *more])[0]

    report: Report = {"schema": 1, "config": args.config, "overrides": overrides}
    config(args.methods[0])  # lest a mistake in it be found late
    if "devices" in args.parts:
        words = [f"--config={args.config}", f"--seconds={args.seconds}", *overrides]
        report["devices"] = measure_devices([*words, "--methods", args.methods[0]])
    report["device"] = measure_device(config(args.methods[0]))
    if "steps" in args.parts:
        report["steps"] = measure_steps(config, args.methods, args.seconds, report["device"])
    if "run" in args.parts:
        report["run"] = measure_runs(config, args.methods)
    if "tasks" in args.parts:
        report["tasks"] = measure_tasks(config, args.methods[0])
    report["peak_memory"] = peak_memory()
    report["environment"] = environment()
    print(json.dumps(report, indent=1))


MakeConfig = Callable[..., ConfigDict]


def measure_device(config: ConfigDict) -> Report:
    """Measures what a device can do at best: moving 256 MB, and multiplying square matrices."""
    dtype = jnp.dtype(config.runtime.dtype)
    array = jnp.zeros(256 * 2**20 // dtype.itemsize, dtype)
    # ten times in one program, which reuses its memory; each reads and writes every byte
    move = jax.jit(lambda x: jax.lax.fori_loop(0, 10, lambda _, y: y + jnp.ones((), dtype), x))
    bandwidth = 2 * 10 * array.nbytes / _best_time(move, array)
    size = 2048 if jax.default_backend() == "cpu" else 8192
    matrix = jnp.ones((size, size), dtype)
    rate = 2 * size**3 / _best_time(jax.jit(jnp.matmul), matrix, matrix)
    _say(f"device: {bandwidth / 1e9:.0f} GB/s, {rate / 1e12:.2f} TFLOP/s in {dtype}")
    return {"dtype": str(dtype), "bytes_per_second": bandwidth, "flops_per_second": rate}


def measure_steps(
    config: MakeConfig, methods: Sequence[str], seconds: float, device: Report
) -> list[Report]:
    """Times the training steps of methods, and compares them with what the device could do."""
    return [
        _time_step(config(method), later, seconds, device)
        for method in methods
        for later in (False, True)
    ]


def _time_step(config: ConfigDict, later: bool, seconds: float, device: Report) -> Report:
    """Times the step of the first task, or of a later one: with exemplars and a teacher."""
    experiment = Experiment(config, random_images(config, per_class=50))
    stage, teacher = example_stage(experiment, later)
    state = experiment.train_state(experiment.initial_model)
    length = experiment.chunk_steps(stage.task)
    times: list[float] = []
    start = time.perf_counter()
    for chunk in fit(experiment, stage, state, teacher, 0):
        jax.block_until_ready(chunk.state)
        now = time.perf_counter()
        times.append(now - start)
        start = now
        if len(times) > 2 and sum(times[1:]) > seconds:
            break
    replayed = 0 if stage.replay is None else config.train.replay_batch_size
    batch = config.train.batch_size + replayed
    step = statistics.median(times[1:]) / length  # the first chunk was compiled
    flops, traffic = costs(
        experiment.network,
        (batch, *experiment.dataset.image_shape),
        trained=not stage.head_only,
        teacher=teacher is not None,
    )
    name = f"{config.method.name}, {'a later' if later else 'the first'} task"
    _say(f"{name}: {step * 1e3:.2f} ms a step, {batch / step:,.0f} images/s")
    return {
        "method": config.method.name,
        "loss": config.loss.name,
        "model": config.model.name,
        "later_task": later,
        "batch": batch,
        "devices": jax.device_count(),
        "milliseconds": step * 1e3,
        "images_per_second": batch / step,
        "of_matrix_rate": flops / step / device["flops_per_second"] / jax.device_count(),
        "of_bandwidth": traffic / step / device["bytes_per_second"] / jax.device_count(),
        "first_chunk_seconds": times[0],
    }


def example_stage(experiment: Experiment, later: bool) -> tuple[Stage, ModelState | None]:
    """Makes a stage without end, of the first task or of the second, and its teacher if any."""
    config, task = experiment.config, int(later)
    if experiment.scenario.num_tasks == task:
        raise UserError(f"scenario.base is {config.scenario.base}: leave classes for a later task")
    indices = np.concatenate(experiment.records[: experiment.scenario.classes_after(task)])
    old = experiment.labels[indices] < experiment.scenario.classes_before(task)
    apart = later and config.train.replay_batch_size > 0
    stage = Stage(
        task=task,
        number=0,
        indices=indices[~old] if apart else indices,
        replay=indices[old] if apart else None,
        epochs=10**4,
        learning_rate=1e-4,
        head_only=experiment.method.freeze_backbone and later,
        freeze_old_rows=experiment.method.freeze_old_rows,
    )
    return stage, experiment.initial_model if experiment.method.teacher and later else None


def costs(
    network: Classifier, shape: tuple[int, ...], trained: bool, teacher: bool
) -> tuple[float, float]:
    """Counts the operations of a step and the bytes it must move, by its convolutions.

    A backward pass has two products for each one of the forward pass. Each map is written and read
    once, once more for BatchNorm's statistics, and written and read between BatchNorm and the next
    convolution: 5 passes. Backward, it and its gradient are read for two sums, read again for the
    gradient along it, which is written, read by the kernel's gradient together with the input of
    the convolution, and read once more for the gradient along that, which is written: 9 more.
    """
    products, elements = 0, 0

    def count(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        nonlocal products, elements
        output = call(*args, **kwargs)
        if isinstance(context.module, Conv):
            products += output.size * context.module.size**2 * args[0].shape[-1]
            elements += output.size * output.dtype.itemsize
        return output

    with nn.intercept_methods(count):
        jax.eval_shape(
            lambda key, images: network.init(key, images, train=False),
            jax.random.key(0),
            jax.ShapeDtypeStruct(shape, jnp.float32),
        )
    forward, moved = 2 * products, 5 * elements
    return (
        forward * ((3 if trained else 1) + teacher),
        moved * (1 + teacher) + (9 * elements if trained else 0),
    )


def measure_devices(argv: Sequence[str]) -> list[Report]:
    """Times the steps split over 1, 2 and 4 devices, each in a process of its own.

    To be done before this process takes the devices for itself.
    """
    reports: list[Report] = []
    for count in (1, 2, 4):
        _say(f"split over {count}:")
        forced = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
        shown = {"XLA_FLAGS": forced, "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(count)))}
        words = [sys.executable, "-m", "bsce_jax.bench", *argv, "--parts", "steps"]
        answer = subprocess.run(words, env={**os.environ, **shown}, stdout=subprocess.PIPE)
        if answer.returncode:
            raise UserError("the process that measures with fewer devices failed; see above")
        steps = json.loads(answer.stdout)["steps"]
        if steps[0]["devices"] < count:
            break  # there are no more
        reports += steps
    return reports


def measure_runs(config: MakeConfig, methods: Sequence[str]) -> list[Report]:
    """Trains each method for 2 epochs a task, and says where the time goes."""
    return [
        {"method": method, **_time_run(config(method, "--config.train.epochs=2"), per_class=50)}
        for method in methods
    ]


def measure_tasks(config: MakeConfig, method: str) -> list[Report]:
    """Trains on the same images in 5 to 50 tasks, for one epoch each."""
    fields = ["scenario.base=0", "train.epochs=1", "memory.size=1", "memory.policy=per_class"]
    words = [f"--config.{field}" for field in fields]
    reports = []
    for tasks in (5, 10, 20, 50):
        increment = f"--config.scenario.increment={CLASSES // tasks}"
        report = _time_run(config(method, *words, increment), per_class=20)
        a_task = {kind: value / tasks for kind, value in report["seconds"].items()}
        reports.append({"tasks": tasks, **report, "seconds_a_task": a_task})
    return reports


def _time_run(config: ConfigDict, per_class: int) -> Report:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        timing = run(config, folder, random_images(config, per_class))["timing"]
        whole = time.perf_counter() - start
    seconds = {**timing["seconds"], "else": whole - sum(timing["seconds"].values())}
    tasks = len(timing["tasks"])
    split = ", ".join(f"{kind} {value:.1f}" for kind, value in seconds.items())
    _say(f"{config.method.name} in {tasks} tasks, {timing['steps']} steps: {whole:.1f} s ({split})")
    return {"steps": timing["steps"], "whole": whole, "seconds": seconds}


def random_images(config: ConfigDict, per_class: int) -> Dataset:
    """Makes a data set of random RGB images, a quarter as many for testing as for training."""
    size = config.dataset.image_size or 32
    rng = np.random.default_rng(0)

    def split(count: int) -> Split:
        labels = np.repeat(np.arange(CLASSES, dtype=np.int32), count)
        images = rng.integers(0, 256, (len(labels), size, size, 3), np.uint8)
        return Split(images, labels)

    return Dataset(
        name="random",
        train=split(per_class),
        test=split(math.ceil(per_class / 4)),
        class_names=tuple(map(str, range(CLASSES))),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    )


def _best_time(function: Callable[..., jax.Array], *arguments: jax.Array) -> float:
    """Returns the seconds of the fastest of some calls, the first of them left out."""
    times = []
    for _ in range(10):
        start = time.perf_counter()
        function(*arguments).block_until_ready()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    exit_on_user_error(main)
