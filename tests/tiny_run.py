"""Runs of seconds: two small backbones, a few images a class, and what tests do with them."""

import contextlib
import pathlib
import signal
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from bsce_jax import config
from bsce_jax.data import ArraySource, Dataset, digits
from bsce_jax.errors import Stopped
from bsce_jax.methods import Stage
from bsce_jax.models import NETWORKS
from bsce_jax.models.channels import with_offset
from bsce_jax.models.ops.conv import Conv
from bsce_jax.models.ops.norm import BatchNorm
from bsce_jax.runs.log import Log
from bsce_jax.training.fit import Work, fit
from bsce_jax.training.loop import run
from bsce_jax.training.problem import Problem
from bsce_jax.training.state import TrainState
from bsce_jax.training.trainer import Trainer


@NETWORKS.register("tiny")
class Tiny(nn.Module):
    """One convolution with BatchNorm; its pixels are the features."""

    final_relu: bool = True
    dtype: jnp.dtype = jnp.dtype(jnp.float32)
    width: int = 4

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        x = BatchNorm()(Conv(self.width, stride=2)(images), train)
        x = with_offset(self, 0, x)
        return nn.relu(x).reshape(len(x), -1), (x,)


@NETWORKS.register("tiny_linear")
class TinyLinear(nn.Module):
    """One matrix: with a linear head the gradients are easily written by hand."""

    final_relu: bool = True
    dtype: jnp.dtype = jnp.dtype(jnp.float32)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        pixels = images.reshape(len(images), -1)
        weight = self.param("weight", nn.initializers.normal(0.3), (pixels.shape[1], 3))
        return pixels @ weight, ()


def some_digits(train: int = 20, test: int = 8) -> Dataset:
    """The first digits of each class."""
    whole = digits.load(pathlib.Path())

    def first(source: Any, count: int) -> ArraySource:
        records = np.concatenate([np.flatnonzero(source.labels == c)[:count] for c in range(10)])
        return ArraySource(source.images(records), source.labels[records])

    return Dataset(
        name="some digits",
        train=first(whole.train, train),
        test=first(whole.test, test),
        class_names=whole.class_names,
        mean=whole.mean,
        std=whole.std,
    )


def flat_images(
    counts: list[int], size: tuple[int, int] = (1, 2), *, seed: int = 0, test: int = 1
) -> Dataset:
    """Noise, so many training images of each class; not normalised."""
    rng = np.random.default_rng(seed)

    def source(counts: list[int]) -> ArraySource:
        labels = np.repeat(np.arange(len(counts)), counts)
        return ArraySource(rng.integers(0, 256, (len(labels), *size, 1), np.uint8), labels)

    return Dataset(
        name="noise",
        train=source(counts),
        test=source([test] * len(counts)),
        class_names=tuple(f"c{i}" for i in range(len(counts))),
        mean=(0.0,),
        std=(1.0,),
    )


def make_config(
    method: str, loss: str | None = None, fields: Mapping[str, Any] | None = None
) -> ConfigDict:
    """A config of few epochs on the tiny network; `fields` by path."""
    made = config.default(method, loss)
    values = {
        "model.name": "tiny",
        "scenario.base": 5,
        "scenario.increment": 5,
        "scenario.class_order": "sorted",
        "memory.size": 6 if made.memory.size else 0,
        "train.epochs": 3,
        "train.batch_size": 32,
        "train.learning_rate": 0.05,
        **(fields or {}),
    }
    for path, value in values.items():
        section, _, name = path.rpartition(".")
        (made[section] if section else made)[name] = value
    return made


def train_stage(
    trainer: Trainer, stage: Stage, records: np.ndarray, task: int = 0, **more: Any
) -> TrainState:
    """Train a whole stage from the initial model, and return where it ends."""
    network = trainer.problem.network
    state = trainer.start(trainer.probe(network).initial, stage)
    work = Work(stage, task, 0, 0, records, None)
    *_, last = fit(trainer, network, work, state, None, 0, **more)
    assert last.state is not None
    return last.state


def main_stage(problem: Problem, task: int = 0) -> Stage:
    """The training of a task."""
    return problem.all_stages(task)[0]


def assert_equal(this: Any, that: Any) -> None:
    """Every array of a tree is that of the other, bit for bit."""
    jax.tree.map(np.testing.assert_array_equal, this, that)


def moved(before: Any, after: Any) -> Any:
    """Tell of every array of a tree whether anything in it moved."""
    return jax.tree.map(lambda a, b: bool(np.any(np.asarray(a) != np.asarray(b))), before, after)


def without_timing(results: dict[str, Any]) -> dict[str, Any]:
    """What two runs of one config have in common."""
    return {k: v for k, v in results.items() if k not in ("timing", "peak_memory")}


def weights(folder: pathlib.Path, task: int) -> dict[str, np.ndarray]:
    """The arrays of the model after a task."""
    with np.load(folder / "model" / f"task_{task:02d}.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


def assert_same_run(this: pathlib.Path, that: pathlib.Path, task: int) -> None:
    """Two folders hold the same model after a task and the same log, bit for bit."""
    assert (this / "metrics.jsonl").read_text() == (that / "metrics.jsonl").read_text()
    a, b = weights(this, task), weights(that, task)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], name)


class Killed(Exception):
    """Ends a run without notice."""


@contextlib.contextmanager
def interrupted(kind: str, **place: int) -> Iterator[None]:
    """Stop (by SIGTERM) or kill the run inside once it has logged an epoch of that place."""
    write = Log.write

    def stop(log: Log, what: str, step: int, values: dict[str, Any]) -> None:
        write(log, what, step, values)
        if what == "epoch" and place.items() <= values.items():
            if kind == "killed":
                raise Killed
            signal.raise_signal(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Log, "write", stop)
        with pytest.raises(Killed if kind == "killed" else Stopped):
            yield


def run_with_interruption(
    made: ConfigDict, dataset: Dataset, folder: pathlib.Path, kind: str, **place: int
) -> dict[str, Any]:
    """Interrupt a run after an epoch, and let the same call go on."""
    with interrupted(kind, **place):
        run(made, folder, dataset)
    return run(made, folder, dataset)
