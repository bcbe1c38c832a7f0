"""A stage: a stretch of training with one plan, one schedule and one prior."""

import functools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bsce_jax import memory
from bsce_jax.methods.base import ModelState, TaskContext
from bsce_jax.training import mesh as mesh_lib
from bsce_jax.training.experiment import Experiment
from bsce_jax.training.schedule import learning_rates
from bsce_jax.training.step import Batches, TrainState


class Stage(NamedTuple):
    """What is trained on, and how.

    Attributes:
      task: number of the task.
      number: 0 for the task's training, 1 for the balanced fine-tuning after it.
      indices: training records.
      replay: records that get places of their own in each batch (`train.replay_batch_size`).
      epochs: over `indices`.
      learning_rate: at the start.
      head_only: whether the backbone stays as it is.
      freeze_old_rows: whether the old class vectors stay as they are.
    """

    task: int
    number: int
    indices: np.ndarray
    replay: np.ndarray | None
    epochs: int
    learning_rate: float
    head_only: bool
    freeze_old_rows: bool

    @property
    def trained(self) -> np.ndarray:
        """All records that are trained on."""
        return self.indices if self.replay is None else np.append(self.indices, self.replay)

    def steps_per_epoch(self, experiment: Experiment) -> int:
        """Counts the optimiser steps of an epoch."""
        return memory.steps_per_epoch(len(self.indices), experiment.config.train.batch_size)

    def _counts(self, experiment: Experiment) -> np.ndarray:
        """Counts how often each class is trained on in an epoch, [C]."""
        classes = experiment.scenario.num_classes
        counts = memory.class_counts(experiment.labels, self.indices, classes).astype(float)
        if self.replay is not None:
            drawn = self.steps_per_epoch(experiment) * experiment.config.train.replay_batch_size
            replayed = memory.class_counts(experiment.labels, self.replay, classes)
            counts += replayed * (drawn / len(self.replay))
        return counts

    def context(self, experiment: Experiment) -> TaskContext:
        """Makes the arrays that tell the compiled step about this stage."""
        scenario = experiment.scenario
        position = np.arange(scenario.num_classes)
        old = position < scenario.classes_before(self.task)
        seen = position < scenario.classes_after(self.task)
        counts = self._counts(experiment)
        trained_rows = seen & ~(old & self.freeze_old_rows)
        context = TaskContext(
            old=jnp.asarray(old),
            new=jnp.asarray(seen & ~old),
            log_prior=experiment.loss.log_prior(counts, old, seen),
            task_of_class=jnp.asarray(scenario.task_of_class),
            train_backbone=jnp.float32(not self.head_only),
            train_rows=jnp.asarray(trained_rows, jnp.float32),
        )
        return mesh_lib.replicate(experiment.mesh, context)


class Chunk(NamedTuple):
    """What came out of a chunk: the state, the stage's steps done, metrics one value a step."""

    state: TrainState
    done: int
    metrics: dict[str, np.ndarray]


def fit(
    experiment: Experiment,
    stage: Stage,
    state: TrainState,
    teacher: ModelState | None,
    first_step: int,
) -> Iterator[Chunk]:
    """Trains a stage from `first_step` to its end, a chunk at a time.

    The state handed out is consumed by the next chunk: save or copy it before going on.
    """
    train = experiment.config.train
    seed = experiment.config.seed
    steps_per_epoch = stage.steps_per_epoch(experiment)
    total = stage.epochs * steps_per_epoch
    length = experiment.chunk_steps(stage.task)
    rates = learning_rates(
        train.schedule,
        learning_rate=stage.learning_rate,
        epochs=stage.epochs,
        steps_per_epoch=steps_per_epoch,
        milestones=train.milestones,
        decay=train.decay,
    )

    @functools.lru_cache(maxsize=2)
    def plan(epoch: int) -> memory.Plan:
        return memory.epoch_plan(
            stage.indices,
            train.batch_size,
            seed=seed,
            task=stage.task,
            # the second stage goes on counting, lest it repeat the first one's shuffles
            epoch=epoch + stage.number * train.epochs,
            replay=stage.replay,
            replay_batch_size=0 if stage.replay is None else train.replay_batch_size,
        )

    @functools.lru_cache(maxsize=2)
    def balanced_plan(epoch: int) -> np.ndarray:
        classes = range(experiment.scenario.classes_after(stage.task))
        pools = [stage.trained[experiment.labels[stage.trained] == c] for c in classes]
        return memory.balanced_plan(
            pools, steps_per_epoch, train.batch_size, seed=seed, task=stage.task, epoch=epoch
        )

    def batches(start: int) -> Batches:
        steps = np.arange(start, start + length, dtype=np.int32)
        places = [divmod(s, steps_per_epoch) for s in range(start, min(start + length, total))]
        idle = length - len(places)
        everywhere = lambda values: mesh_lib.replicate(experiment.mesh, jnp.asarray(values))

        def over_devices(rows: Iterable[np.ndarray]) -> jax.Array:
            filled = np.pad(np.stack(list(rows)), [(0, idle), (0, 0)])
            return mesh_lib.split(experiment.mesh, filled, axis=1)

        return Batches(
            indices=over_devices(plan(epoch).indices[row] for epoch, row in places),
            weights=over_devices(plan(epoch).weights[row] for epoch, row in places),
            learning_rate=everywhere(np.pad(rates[start : start + length], (0, idle))),
            step=everywhere(steps),
            balanced=over_devices(balanced_plan(epoch)[row] for epoch, row in places)
            if experiment.loss.learned
            else None,
        )

    if first_step >= total:
        return
    context = stage.context(experiment)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), stage.task), stage.number)
    key = mesh_lib.replicate(experiment.mesh, key)
    upcoming = batches(first_step)
    for start in range(first_step, total, length):
        state, metrics = experiment.train_chunk(
            state, teacher, context, key, experiment.resident, upcoming
        )
        done = min(start + length, total)
        if done < total:
            upcoming = batches(done)  # while the device works
        cut = {name: np.asarray(values)[: done - start] for name, values in metrics.items()}
        yield Chunk(state, done, cut)
