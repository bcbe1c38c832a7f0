"""The measurements of `python -m bsce_jax.bench`.

The wheel has this folder as `bsce_jax/benchmarks`, so that the command works without a checkout.
"""

import dataclasses
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from bsce_jax.data import ArraySource, Dataset
from bsce_jax.errors import UserError
from bsce_jax.methods import ModelState
from bsce_jax.models import Classifier
from bsce_jax.models.growing import GrowingClassifier, freeze_branch
from bsce_jax.models.ops.conv import Conv
from bsce_jax.runs.results import environment, peak_memory
from bsce_jax.training.fit import Work, choose_records, fit
from bsce_jax.training.loop import run
from bsce_jax.training.problem import Problem
from bsce_jax.training.trainer import Trainer

CLASSES = 100
Report = dict[str, Any]
MakeConfig = Callable[..., ConfigDict]  # (method, fields to override) -> its config


def measure(
    report: Report,
    config: MakeConfig,
    methods: Sequence[str],
    parts: Sequence[str],
    seconds: float,
) -> None:
    """Measure parts of the bench, and add each figure to the report at once.

    Args:
      report: to add the figures to; it has the config and its overrides.
      config: makes the config of a method.
      methods: names.
      parts: names, see `bsce_jax/bench.py`.
      seconds: time to measure each step for, and the device with each of two programs.
    """
    if "devices" in parts:
        words = [f"--config={report['config']}", f"--seconds={seconds}", *report["overrides"]]
        words += [f"--import={file}" for file in report["imports"]]
        report["devices"] = []
        for row in measure_devices([*words, "--methods", methods[0]]):
            report["devices"].append(row)
    report["environment"] = environment()
    report["device"] = measure_device(config(methods[0]), seconds)
    rows: dict[str, Iterator[Report]] = {
        "steps": measure_steps(config, methods, seconds, report["device"]),
        "run": measure_runs(config, methods),
        "tasks": measure_tasks(config, methods[0]),
    }
    for part, measured in rows.items():
        if part in parts:
            report[part] = []
            for row in measured:
                report[part].append(row)
                report["peak_memory"] = peak_memory()


def measure_device(config: ConfigDict, seconds: float) -> Report:
    """Measure the bandwidth of copying 256 MB, and the rate of multiplying square matrices."""
    dtype = jnp.dtype(config.runtime.dtype)
    array = jnp.zeros(256 * 2**20 // dtype.itemsize, dtype)
    # ten passes in one program, which reuses its memory; each reads and writes every byte
    move = jax.jit(lambda x: jax.lax.fori_loop(0, 10, lambda _, y: y + jnp.ones((), dtype), x))
    bandwidth = 2 * 10 * array.nbytes / _best_time(seconds, move, array)
    size = 2048 if jax.default_backend() == "cpu" else 8192
    matrix = jnp.ones((size, size), dtype)
    rate = 2 * size**3 / _best_time(seconds, jax.jit(jnp.matmul), matrix, matrix)
    _say(f"device: {bandwidth / 1e9:.0f} GB/s, {rate / 1e12:.2f} TFLOP/s in {dtype}")
    return {"dtype": str(dtype), "bytes_per_second": bandwidth, "flops_per_second": rate}


def measure_steps(
    config: MakeConfig, methods: Sequence[str], seconds: float, device: Report
) -> Iterator[Report]:
    """Time the training steps of methods, and compare them with the limits of the device."""
    for method in methods:
        chosen = config(method)
        trainer = Trainer(Problem(chosen, random_images(chosen, per_class=50)))
        for task in (0, 1):
            begun = begin(trainer, task)
            for work in begun.works:
                yield _time_step(trainer, begun, work, seconds, device)


class Begun(NamedTuple):
    """A task that is ready to train.

    Attributes:
      network: of the task.
      model: with initial parameters; also the teacher.
      works: the stages, each with very many epochs.
    """

    network: Classifier
    model: ModelState
    works: list[Work]

    def teacher(self, work: Work) -> ModelState | None:
        """Return the teacher of a stage, None without one."""
        return self.model if work.stage.teacher != "none" else None


def begin(trainer: Trainer, task: int) -> Begun:
    """Prepare a task of a problem, without training the earlier tasks.

    Args:
      trainer: of the problem.
      task: number of the task.

    Raises:
      UserError: there are fewer tasks.
    """
    problem = trainer.problem
    if task >= problem.scenario.num_tasks:
        base = problem.config.scenario.base
        raise UserError(f"scenario.base is {base}: leave classes for a later task")
    records = problem.records[: problem.scenario.classes_after(task)]
    kept = problem.memory().add(records)
    network = problem.network_of(task)
    works = []
    for number, stage in enumerate(problem.stages(task)):
        endless = dataclasses.replace(stage, epochs=10**4, learning_rate=1e-4)
        work = choose_records(problem, kept.exemplars, endless, task, number, first_epoch=0)
        if len(work.records):
            works.append(work)
    model = trainer.probe(network).initial
    if isinstance(network, GrowingClassifier):  # a step computes the branches of earlier tasks
        for _ in range(task):
            frozen = freeze_branch(model.params, model.batch_stats)
            model = dataclasses.replace(model, batch_stats=frozen)
    return Begun(network, model, works)


def _time_step(
    trainer: Trainer, begun: Begun, work: Work, seconds: float, device: Report
) -> Report:
    """Time the step of a stage."""
    problem, stage, config = trainer.problem, work.stage, trainer.problem.config
    times: list[float] = []
    state = trainer.start(begun.model, stage)
    start = time.perf_counter()
    for _ in fit(trainer, begun.network, work, state, begun.teacher(work), 0):
        now = time.perf_counter()
        times.append(now - start)
        start = now
        if len(times) > 2 and sum(times[1:]) > seconds:
            break
    replayed = 0 if work.replay is None else stage.replay_batch_size
    batch = config.train.batch_size + replayed
    # the first chunk includes compiling
    step = statistics.median(times[1:]) / problem.chunk_steps(work.task)
    flops, traffic = costs(
        begun.network,
        (batch, *problem.dataset.image_shape),
        trained=not stage.head_only,
        # a criterion that learns has a forward pass of a class-balanced batch too
        extra_forwards=(stage.teacher != "none") + problem.criterion.learns,
    )
    name = f"{config.method.name}, {'a later' if work.task else 'the first'} task, {stage.name}"
    _say(f"{name}: {step * 1e3:.2f} ms a step, {batch / step:,.0f} images/s")
    return {
        "method": config.method.name,
        "loss": config.loss.name,
        "model": config.model.name,
        "later_task": work.task > 0,
        "stage": stage.name,
        "head_only": stage.head_only,
        "batch": batch,
        "devices": jax.device_count(),
        "milliseconds": step * 1e3,
        "images_per_second": batch / step,
        "of_matrix_rate": flops / step / device["flops_per_second"] / jax.device_count(),
        "of_bandwidth": traffic / step / device["bytes_per_second"] / jax.device_count(),
        "first_chunk_seconds": times[0],
    }


def costs(
    network: Classifier, shape: tuple[int, ...], trained: bool, extra_forwards: int
) -> tuple[float, float]:
    """Count the operations of a step and the bytes it must move, from its convolutions.

    The backward pass has two products for each one of the forward pass. Forward, a map is accessed
    5 times: written by the convolution, read for BatchNorm's statistics, read and written by its
    normalisation, and read by the next convolution. Backward there are 9 more accesses. BatchNorm
    reads the map and its gradient for two sums, reads both again, and writes the gradient of its
    input. The gradient of the kernel reads that and the input of the convolution. The gradient of
    this input reads it once more, and is written.

    Args:
      network: what is trained.
      shape: of the images.
      trained: whether the backbone is trained; with the head alone there is no backward pass.
      extra_forwards: forward passes besides the student's, such as the teacher's.
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
        forward * ((3 if trained else 1) + extra_forwards),
        moved * (1 + extra_forwards) + (9 * elements if trained else 0),
    )


def measure_devices(argv: Sequence[str]) -> Iterator[Report]:
    """Time the steps split over 1, 2 and 4 devices, each in a separate process.

    Call it before this process initialises the devices.
    """
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
            break  # the machine has fewer devices
        yield from steps


def measure_runs(config: MakeConfig, methods: Sequence[str]) -> Iterator[Report]:
    """Train each method for 2 epochs a task, and split the time by kind of work."""
    for method in methods:
        report = _time_run(config(method, epochs(2)), per_class=50)
        yield {"method": method, **report}


def measure_tasks(config: MakeConfig, method: str) -> Iterator[Report]:
    """Train on the same images in 5 to 50 tasks, for one epoch each."""
    fields = {"scenario.base": "0", "memory.size": "1", "memory.policy": "per_class", **epochs(1)}
    for tasks in (5, 10, 20, 50):
        fields["scenario.increment"] = str(CLASSES // tasks)
        report = _time_run(config(method, fields), per_class=20)
        a_task = {kind: value / tasks for kind, value in report["seconds"].items()}
        yield {"tasks": tasks, **report, "seconds_a_task": a_task}


def epochs(count: int) -> dict[str, str]:
    """Make the fields of so many epochs of each task."""
    return {"train.epochs": str(count), "train.later_epochs": "0"}


def _time_run(config: ConfigDict, per_class: int) -> Report:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        timing = run(config, folder, random_images(config, per_class))["timing"]
        whole = time.perf_counter() - start
    seconds = {**timing["seconds"], "else": whole - sum(timing["seconds"].values())}
    steps = {name: timing[name] for name in ("steps", "head_steps", "finetuning_saved")}
    tasks = len(timing["tasks"])
    split = ", ".join(f"{kind} {value:.1f}" for kind, value in seconds.items())
    _say(f"{config.method.name} in {tasks} tasks, {timing['steps']} steps: {whole:.1f} s ({split})")
    return {**steps, "whole": whole, "seconds": seconds}


def random_images(config: ConfigDict, per_class: int) -> Dataset:
    """Make a data set of random RGB images, with a quarter as many test as training images."""
    size = config.dataset.image_size or 32
    rng = np.random.default_rng(0)

    def split(count: int) -> ArraySource:
        labels = np.repeat(np.arange(CLASSES, dtype=np.int32), count)
        images = rng.integers(0, 256, (len(labels), size, size, 3), np.uint8)
        return ArraySource(images, labels)

    return Dataset(
        name="random",
        train=split(per_class),
        test=split(math.ceil(per_class / 4)),
        class_names=tuple(map(str, range(CLASSES))),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    )


def _best_time(seconds: float, function: Callable[..., jax.Array], *arguments: jax.Array) -> float:
    """Return the seconds of the fastest of 2 to 10 calls in some seconds, without the first one."""
    times: list[float] = []
    while len(times) < 2 or (len(times) < 10 and sum(times[1:]) < seconds):
        start = time.perf_counter()
        function(*arguments).block_until_ready()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
