"""Training a stage in chunks: its records, its prior and its batches."""

import collections
import concurrent.futures
import contextlib
import functools
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from bsce_jax.data import crops
from bsce_jax.data.plan import Plan, balanced_plan, class_counts, epoch_plan, steps_per_epoch
from bsce_jax.data.stream import StreamedFeed
from bsce_jax.methods import ModelState, Stage, TaskContext
from bsce_jax.models import Classifier
from bsce_jax.optim import learning_rates
from bsce_jax.training import mesh as mesh_lib
from bsce_jax.training.problem import Exemplars, Problem
from bsce_jax.training.state import Batches, TrainState
from bsce_jax.training.trainer import Trainer

T = TypeVar("T")


class Work(NamedTuple):
    """A stage of a task and the records that it trains on.

    Attributes:
      stage: the stage.
      task: number of the task.
      number: of the stage within its task, from 0.
      first_epoch: epochs of the task's earlier stages, so that no two epochs share a shuffle.
      records: the records of an epoch.
      replay: exemplars that are added to each batch, None if none are.
    """

    stage: Stage
    task: int
    number: int
    first_epoch: int
    records: np.ndarray
    replay: np.ndarray | None

    def steps_per_epoch(self, batch_size: int) -> int:
        """Count the optimiser steps of an epoch."""
        return steps_per_epoch(len(self.records), batch_size)

    @property
    def trained(self) -> np.ndarray:
        """All records that the stage trains on."""
        return self.records if self.replay is None else np.append(self.records, self.replay)


def choose_records(
    problem: Problem,
    exemplars: Exemplars,
    stage: Stage,
    task: int,
    number: int,
    first_epoch: int,
) -> Work:
    """Choose the records of a stage.

    Args:
      problem: what the run is about.
      exemplars: of the classes of earlier tasks, and of this task's for a stage on the memory.
      stage, task, number, first_epoch: see `Work`.
    """
    replay = None
    if stage.records == "memory":
        records = problem.memory(exemplars).indices
    else:
        info = problem.task_info(task, exemplars)
        records = info.train
        if stage.replay_batch_size:
            is_old = info.labels[records] < info.old
            records, replay = records[~is_old], records[is_old]
            if stage.replay == "all":  # as many of each class as will be kept
                chosen = problem.random_exemplars(task)
                replay = problem.memory(exemplars).add(chosen).indices
    return Work(stage, task, number, first_epoch, records, replay)


class Chunk(NamedTuple):
    """The result of a chunk.

    Attributes:
      done: steps of the stage that are done.
      metrics: by name, one value a step.
      state: the training state after the chunk if `keep` requested it or the stage ends here, else
        None.
    """

    done: int
    metrics: dict[str, np.ndarray]
    state: TrainState | None


def fit(
    trainer: Trainer,
    network: Classifier,
    work: Work,
    state: TrainState,
    teacher: ModelState | None,
    first_step: int,
    *,
    keep: Callable[[int], bool] = lambda done: False,
    stop: Callable[[], bool] = lambda: False,
    waiting_for_data: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
) -> Iterator[Chunk]:
    """Train a stage from `first_step` to its end, a chunk at a time.

    The next chunk is sent to the device before the result of the last one is yielded, so that the
    device does not wait for logging and saving. A thread prepares the chunks after it.

    Args:
      trainer: has the programs and the feed.
      network: what is trained.
      work: the stage.
      state: from `trainer.start` or from a checkpoint; it is donated.
      teacher: see `Stage.teacher`, None for a stage without one.
      first_step: steps of the stage that are done.
      keep: tells for a number of steps whether to yield the state after them.
      stop: called before each chunk but the first; if true, the stage ends there.
      waiting_for_data: makes the context in which the next chunk is waited for.

    Raises:
      UserError: an image that cannot be read.
    """
    problem = trainer.problem
    total = work.stage.epochs * work.steps_per_epoch(problem.config.train.batch_size)
    if first_step >= total:
        return
    length = problem.chunk_steps(work.task, trainer.feed.record_bytes)
    teacher_network = problem.teacher_network(work.stage, work.task)
    chunk = trainer.train_chunk(network, work.stage, teacher_network)
    context = mesh_lib.replicate(trainer.mesh, task_context(problem, work))
    key = jax.random.key(problem.config.seed)
    key = jax.random.fold_in(jax.random.fold_in(key, work.task), work.number)
    key = mesh_lib.replicate(trainer.mesh, key)

    batches = _batches(trainer, work, total, length)
    waiting: tuple[int, int, dict[str, jax.Array], TrainState | None] | None = None
    done = first_step
    with contextlib.closing(ahead(batches, range(done, total, length))) as prepared:
        while done < total and not (waiting and stop()):
            with waiting_for_data():
                upcoming = next(prepared)
            start, done = done, min(done + length, total)
            state, metrics = chunk(state, teacher, context, key, trainer.feed.constants, upcoming)
            del upcoming  # of the devices' memory
            kept = jax.tree.map(jnp.copy, state) if keep(done) and done < total else None
            if waiting:
                yield _fetch(*waiting)
            waiting = (done - start, done, metrics, kept)
    assert waiting is not None  # first_step < total, so a chunk was trained
    yield _fetch(*waiting[:3], state)


def ahead(make: Callable[[int], T], starts: Iterable[int], depth: int = 2) -> Generator[T]:
    """Make things in order in a thread, a few ahead of what is taken.

    Args:
      make: makes the thing of a number; its error is raised where the thing is taken.
      starts: the numbers.
      depth: things that are made before they are taken, at most.
    """
    upcoming = iter(starts)
    pool = concurrent.futures.ThreadPoolExecutor(1)
    try:
        made = collections.deque(pool.submit(make, i) for i in itertools.islice(upcoming, depth))
        while made:
            # nothing here keeps what was taken: it may be large
            yield made.popleft().result()
            made.extend(pool.submit(make, i) for i in itertools.islice(upcoming, 1))
    finally:
        pool.shutdown(cancel_futures=True)


def _fetch(steps: int, done: int, metrics: dict[str, jax.Array], state: TrainState | None) -> Chunk:
    """Wait for a chunk's metrics, and drop those of the padding steps."""
    return Chunk(done, {name: np.asarray(v)[:steps] for name, v in metrics.items()}, state)


def task_context(problem: Problem, work: Work) -> TaskContext:
    """Make the arrays that describe a stage of a task to the compiled step."""
    scenario, stage = problem.scenario, work.stage
    position = np.arange(scenario.num_classes)
    old = position < scenario.classes_before(work.task)
    seen = position < scenario.classes_after(work.task)
    counts = _counts(problem, work)
    return TaskContext(
        old=jnp.asarray(old),
        new=jnp.asarray(seen & ~old),
        counts=jnp.asarray(counts, jnp.float32),
        log_prior=problem.criterion.log_prior(counts, old, seen),
        task_of_class=jnp.asarray(scenario.task_of_class),
        train_rows=jnp.asarray(seen & ~(old & stage.freeze_old_rows), jnp.float32),
    )


def _counts(problem: Problem, work: Work) -> np.ndarray:
    """Count how often each class is trained on in an epoch, [C]."""
    classes = problem.scenario.num_classes
    counts = class_counts(problem.labels, work.records, classes).astype(float)
    if work.replay is not None:
        steps = work.steps_per_epoch(problem.config.train.batch_size)
        drawn = steps * work.stage.replay_batch_size
        replayed = class_counts(problem.labels, work.replay, classes)
        counts += replayed * (drawn / len(work.replay))
    return counts


def _batches(trainer: Trainer, work: Work, total: int, length: int) -> Callable[[int], Batches]:
    """Make the function that prepares the chunk of batches which starts at a step."""
    problem, stage = trainer.problem, work.stage
    seed, batch_size = problem.config.seed, problem.config.train.batch_size
    steps_per_epoch = work.steps_per_epoch(batch_size)
    rates = learning_rates(stage, total)
    learns = problem.criterion.learns

    epochs = 2 + length // steps_per_epoch  # that a chunk may touch

    @functools.lru_cache(epochs)
    def plan(epoch: int) -> Plan:
        return epoch_plan(
            work.records,
            batch_size,
            seed=seed,
            task=work.task,
            epoch=work.first_epoch + epoch,
            replay=work.replay,
            replay_batch_size=0 if work.replay is None else stage.replay_batch_size,
        )

    @functools.lru_cache(epochs)
    def balanced(epoch: int) -> np.ndarray:
        classes = range(problem.scenario.classes_after(work.task))
        pools = [work.trained[problem.labels[work.trained] == c] for c in classes]
        return balanced_plan(
            pools,
            steps_per_epoch,
            batch_size,
            seed=seed,
            task=work.task,
            epoch=work.first_epoch + epoch,
        )

    def batches(start: int) -> Batches:
        places = [divmod(s, steps_per_epoch) for s in range(start, min(start + length, total))]
        idle = length - len(places)

        def stacked(rows: Iterable[np.ndarray]) -> np.ndarray:
            # idle steps repeat the last row, with weight 0
            return np.pad(np.stack(list(rows)), [(0, idle), (0, 0)], mode="edge")

        def labels_of(records: np.ndarray) -> jax.Array:
            return mesh_lib.split(trainer.mesh, problem.labels[records], axis=1)

        records = stacked(plan(epoch).indices[row] for epoch, row in places)
        if isinstance(trainer.feed, StreamedFeed) and problem.crops_sources:
            width = records.shape[1]
            drawn = (
                crops.seeds(
                    seed, work.task, work.first_epoch + epoch, row * width + np.arange(width)
                )
                for epoch, row in places
            )
            images = trainer.feed.put_crops(records, stacked(drawn))
        else:
            images = trainer.feed.put(records)
        weights = stacked(plan(epoch).weights[row] for epoch, row in places)
        weights[len(places) :] = 0
        equal = None
        if learns:
            equal = stacked(balanced(epoch)[row] for epoch, row in places)
        everywhere = lambda values: mesh_lib.replicate(trainer.mesh, jnp.asarray(values))
        return Batches(
            images=images,
            labels=labels_of(records),
            weights=mesh_lib.split(trainer.mesh, weights, axis=1),
            learning_rate=everywhere(np.pad(rates[start : start + length], (0, idle))),
            step=everywhere(np.arange(start, start + length, dtype=np.int32)),
            epoch=everywhere(np.pad([np.int32(epoch) for epoch, _ in places], (0, idle))),
            balanced=None if equal is None else (trainer.feed.put(equal), labels_of(equal)),
        )

    return batches
