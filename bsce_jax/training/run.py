"""The run over the tasks."""

import contextlib
import dataclasses
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from bsce_jax import memory
from bsce_jax.data import Dataset
from bsce_jax.errors import Stopped, UserError
from bsce_jax.memory import Memory
from bsce_jax.methods.base import ModelState, TaskInfo
from bsce_jax.training import compiler, evaluate, results, workdir
from bsce_jax.training.checkpoint import Checkpoints, Progress
from bsce_jax.training.display import Display
from bsce_jax.training.experiment import Experiment
from bsce_jax.training.signals import StopRequest
from bsce_jax.training.stage import Stage, fit


def run(
    config: ConfigDict, folder: str | os.PathLike[str], dataset: Dataset | None = None
) -> dict[str, Any]:
    """Trains a config task by task in a folder, from where an earlier call left off.

    Args:
      config: from a config file.
      folder: the work directory; see the README for what comes to lie in it.
      dataset: images of your own; None for the data set that the config names.

    Returns:
      The contents of `results.json`.

    Raises:
      UserError: the config cannot be, the folder is not its own, or another process is at it.
      Stopped: SIGINT or SIGTERM came; the same call goes on from there.
    """
    experiment = Experiment(config, dataset)
    with (
        workdir.claimed(folder, config) as path,
        Checkpoints(path / "checkpoints") as checkpoints,
        StopRequest() as stop,
        Display() as display,
    ):
        return _Run(experiment, path, checkpoints, stop, display).tasks()


class _Run:
    """The moving parts of a run: the state in training, the teacher, and where it stands."""

    def __init__(
        self,
        experiment: Experiment,
        folder: pathlib.Path,
        checkpoints: Checkpoints,
        stop: StopRequest,
        display: Display,
    ):
        self.experiment = experiment
        self.method = experiment.method
        self.scenario = experiment.scenario
        self.folder = folder
        self.checkpoints = checkpoints
        self.stop = stop
        self.display = display
        self.state = experiment.train_state(experiment.initial_model)
        self.teacher: ModelState | None = None
        self.progress = Progress()
        self.clock: dict[str, float] = {}

    def tasks(self) -> dict[str, Any]:
        """Does what is left of the run."""
        self._resume()
        with workdir.Log(self.folder, self.progress.log_bytes, self.progress.total_steps) as log:
            self.log = log
            if self.scenario.uneven:
                self.display.line(
                    f"the last task is smaller: {len(self.scenario.tasks[-1])} classes"
                )
            for task in range(self.progress.task, self.scenario.num_tasks):
                info = self._task_info(task)
                if self.progress.between_tasks:
                    self._begin(info)
                if self.progress.stage == 0:
                    self._train(info)
                    self._correct(info)
                    self._remember(info)
                if self.progress.stage == 1:
                    self._finetune(info)
                self._evaluate(info)
                self._finish(info)
        return results.read(self.folder) or self._report()

    # the steps of a task, in order

    def _begin(self, info: TaskInfo) -> None:
        """Makes the last model the teacher, and prepares it for the new classes."""
        model = self.state.model
        self.teacher = model if self.method.teacher and info.index > 0 else None
        with self._timed("prepare"):
            prepared = self.method.begin_task(model, info, self.experiment.train_eye)
            self.state = self.experiment.train_state(prepared)

    def _train(self, info: TaskInfo) -> None:
        replay = None
        indices = info.train
        config = self.experiment.config.train
        if config.replay_batch_size and info.index > 0:
            is_old = info.labels[indices] < info.old
            indices, replay = indices[~is_old], indices[is_old]
        self._fit(
            info,
            Stage(
                task=info.index,
                number=0,
                indices=indices,
                replay=replay,
                epochs=config.epochs,
                learning_rate=config.learning_rate,
                head_only=self.method.freeze_backbone and info.index > 0,
                freeze_old_rows=self.method.freeze_old_rows,
            ),
        )

    def _correct(self, info: TaskInfo) -> None:
        with self._timed("correct"):
            model = self.method.end_training(self.state.model, info, self.experiment.train_eye)
            self.state = dataclasses.replace(self.state, model=model)

    def _remember(self, info: TaskInfo) -> None:
        """Chooses the new classes' exemplars with the model just trained."""
        config = self.experiment.config
        kept = self._memory()
        with self._timed("remember"):
            records = [self.experiment.records[c] for c in info.new]
            quota = kept.quota([len(r) for r in self.experiment.records[: info.seen]])
            ranked: list[list[int]] = [[] for _ in records]
            if any(quota):
                eye = self.experiment.train_eye
                features = eye.features(self.state.model, np.concatenate(records))
                parts = np.split(features, np.cumsum([len(r) for r in records])[:-1])
                for i, (part, record) in enumerate(zip(parts, records, strict=True)):
                    rng = memory.generator(config.seed, info.index, info.old + i)
                    count = quota[info.old + i]
                    best = memory.select(part, count, config.memory.selection, rng=rng)
                    ranked[i] = record[best].tolist()
            exemplars = kept.add(ranked).exemplars
        finetuning = self.method.finetuning is not None and info.index > 0 and any(exemplars)
        self.progress = dataclasses.replace(
            self.progress, exemplars=exemplars, stage=int(finetuning), step=0
        )

    def _finetune(self, info: TaskInfo) -> None:
        """Trains on the memory alone, which holds all classes seen in equal numbers."""
        finetuning = self.method.finetuning
        assert finetuning is not None  # stage 1 exists only with it
        if self.progress.step == 0:
            self.state = self.experiment.train_state(self.state.model)
        self._fit(
            info,
            Stage(
                task=info.index,
                number=1,
                indices=self._memory().indices,
                replay=None,
                epochs=finetuning.epochs,
                learning_rate=finetuning.learning_rate,
                head_only=finetuning.head_only,
                freeze_old_rows=False,
            ),
        )

    def _evaluate(self, info: TaskInfo) -> None:
        """Predicts the test images of all classes seen, and brings results.json up to date."""
        experiment = self.experiment
        with self._timed("evaluate"):
            labels = experiment.test_labels
            indices = np.flatnonzero((labels >= 0) & (labels < info.seen))
            cnn, nme = evaluate.predict(
                self.method,
                self.state.model,
                self.scenario,
                info.seen,
                self.progress.exemplars,
                experiment.train_eye,
                experiment.test_eye,
                indices,
            )
            true = experiment.dataset.test.labels[indices]
            workdir.write_predictions(self.folder, info.index, true, cnn, nme)
        self.progress = dataclasses.replace(
            self.progress,
            history=(*self.progress.history, self.progress.exemplars),
            timing=(*self.progress.timing, self.clock),
        )
        self.clock = {}
        summary = self._report()
        accuracy = {kind: summary[kind]["accuracy"][-1] for kind in ("cnn", "nme") if summary[kind]}
        self.log.write(
            "task",
            self.progress.total_steps,
            {"task": info.index, "classes": info.seen, **accuracy},
        )
        shown = ", ".join(f"{kind.upper()} {value:.2f} %" for kind, value in accuracy.items())
        self.display.line(
            f"task {info.index + 1}/{self.scenario.num_tasks}: {info.seen} classes, {shown}"
        )

    def _report(self) -> dict[str, Any]:
        return results.write(self.folder, self.experiment, self.progress)

    def _finish(self, info: TaskInfo) -> None:
        self.progress = dataclasses.replace(
            self.progress, task=info.index + 1, stage=0, step=0, meter={}
        )
        self._save()

    # parts of those steps

    def _task_info(self, task: int) -> TaskInfo:
        """Says what a task brings and which records it trains on."""
        experiment = self.experiment
        old, seen = self.scenario.classes_before(task), self.scenario.classes_after(task)
        new = [r.tolist() for r in experiment.records[old:seen]]
        if self.method.all_data:
            past = [r.tolist() for r in experiment.records[:old]]
        else:
            past = [list(e) for e in self.progress.exemplars[:old]]
        train, validation = memory.holdout(
            past, new, self.method.holdout, seed=experiment.config.seed, task=task
        )
        return TaskInfo(
            index=task,
            old=old,
            seen=seen,
            seed=experiment.config.seed,
            labels=experiment.labels,
            train=train,
            validation=validation,
        )

    def _memory(self) -> Memory:
        empty = self.experiment.empty_memory
        return dataclasses.replace(empty, exemplars=self.progress.exemplars)

    def _fit(self, info: TaskInfo, stage: Stage) -> None:
        """Trains what is left of a stage; logs every epoch, saves now and then and on a stop."""
        steps_per_epoch = stage.steps_per_epoch(self.experiment)
        saved = self.progress.step // steps_per_epoch
        name = f"task {info.index + 1}/{self.scenario.num_tasks}"
        name += ", balanced fine-tuning" if stage.number else ""
        self.display.stage(name, stage.epochs * steps_per_epoch)
        self.display.step(self.progress.step, "")
        with self._timed("train"):
            chunks = fit(self.experiment, stage, self.state, self.teacher, self.progress.step)
            for chunk in chunks:
                self.state = chunk.state
                self._log_steps(stage, steps_per_epoch, chunk.done, chunk.metrics)
                finished = chunk.done == stage.epochs * steps_per_epoch
                epochs = chunk.done // steps_per_epoch
                interval = self.experiment.config.runtime.checkpoint_epochs
                if self.stop.requested is not None:
                    self._save()
                    raise Stopped(self.stop.requested)
                if not finished and epochs >= saved + interval:
                    self._save()
                    saved = epochs
        self.clock["steps"] = self.clock.get("steps", 0) + stage.epochs * steps_per_epoch

    def _log_steps(
        self, stage: Stage, steps_per_epoch: int, done: int, metrics: dict[str, np.ndarray]
    ) -> None:
        """Averages the steps' metrics over each epoch, and writes down those that are complete."""
        if not np.isfinite(metrics["loss"]).all():
            raise UserError(
                f"the loss is not finite in task {stage.task + 1}, epoch "
                f"{self.progress.step // steps_per_epoch + 1}: try a lower train.learning_rate"
            )
        count = len(metrics["loss"])
        meter = dict(self.progress.meter)
        before = self.progress
        for i, step in enumerate(range(done - count + 1, done + 1)):
            for key, values in metrics.items():
                meter[key] = meter.get(key, 0.0) + float(values[i])
            if step % steps_per_epoch == 0:
                means = {key: value / steps_per_epoch for key, value in meter.items()}
                place = {
                    "task": stage.task,
                    "stage": stage.number,
                    "epoch": step // steps_per_epoch,
                }
                self.log.write("epoch", before.total_steps + i + 1, {**place, **means})
                meter = {}
        self.progress = dataclasses.replace(
            before, step=done, total_steps=before.total_steps + count, meter=meter
        )
        epoch = min(done // steps_per_epoch + 1, stage.epochs)
        detail = f"epoch {epoch}/{stage.epochs}, loss {metrics['loss'].mean():.3f}"
        self.display.step(done, detail)

    def _save(self) -> None:
        with self._timed("save"):
            self.progress = dataclasses.replace(
                self.progress, log_bytes=self.log.bytes, clock=dict(self.clock)
            )
            self.checkpoints.save(self.progress, self._arrays(self.progress))

    def _arrays(self, progress: Progress) -> dict[str, Any]:
        arrays: dict[str, Any] = {"state": self.state}
        if self.teacher is not None and not progress.between_tasks:
            arrays["teacher"] = self.teacher
        return arrays

    def _resume(self) -> None:
        progress = self.checkpoints.latest()
        if progress is None:
            return
        if self.method.teacher and progress.task > 0:
            self.teacher = self.state.model  # for its structure
        arrays = self.checkpoints.restore(self._arrays(progress))
        self.state, self.teacher = arrays["state"], arrays.get("teacher")
        self.progress = progress
        self.clock = dict(progress.clock)
        if progress.task < self.scenario.num_tasks:
            for task in range(progress.task):
                workdir.read_predictions(self.folder, task)  # lest one be missed only later
            where = f"task {progress.task + 1}/{self.scenario.num_tasks} at step {progress.step}"
            self.display.line(f"resuming {where}")

    @contextlib.contextmanager
    def _timed(self, kind: str) -> Iterator[None]:
        start, compiled = time.perf_counter(), compiler.clock.seconds
        try:
            yield
        finally:
            jax.block_until_ready(self.state)
            compiled = compiler.clock.seconds - compiled
            taken = time.perf_counter() - start - compiled
            self.clock[kind] = self.clock.get(kind, 0.0) + taken
            self.clock["compile"] = self.clock.get("compile", 0.0) + compiled
