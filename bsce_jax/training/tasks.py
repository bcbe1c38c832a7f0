"""The loop over the tasks of a run."""

import dataclasses
from typing import Any

import numpy as np

from bsce_jax import hosts, memory
from bsce_jax.data.plan import steps_per_epoch
from bsce_jax.errors import Stopped, UserError
from bsce_jax.methods import ModelState, Stage
from bsce_jax.runs import exemplars, home, log, predictions, results
from bsce_jax.runs.checkpoint import Checkpoints, Progress
from bsce_jax.runs.folder import Claim
from bsce_jax.runs.model import write_model
from bsce_jax.runs.start import Pretrained
from bsce_jax.streams import Purpose, generator
from bsce_jax.training import evaluate
from bsce_jax.training import mesh as mesh_lib
from bsce_jax.training.clock import Clock, in_words
from bsce_jax.training.display import Display
from bsce_jax.training.fit import Work, choose_records, fit
from bsce_jax.training.forecast import Forecast
from bsce_jax.training.signals import StopRequest
from bsce_jax.training.state import TrainState, all_finite
from bsce_jax.training.trainer import Trainer


class TaskLoop:
    """A run in progress: the model, the teacher and the position."""

    def __init__(
        self,
        trainer: Trainer,
        place: home.Home,
        claim: Claim | None,
        progress: Progress,
        checkpoints: Checkpoints,
        entries: log.Log | None,
        stop: StopRequest,
        display: Display,
    ):
        self.trainer = trainer
        self.problem = trainer.problem
        self.place, self.folder = place, place.folder
        self.claim = claim  # None, like the log, in all processes but the main one
        self.progress = progress
        self.checkpoints = checkpoints
        self.log = entries
        self.stop = stop
        self.asked = hosts.SharedRequest(trainer.mesh)
        self.display = display
        self.clock = Clock()
        self.forecast = Forecast(self.problem)
        # between tasks the model is still that of the last task's network
        last = progress.task - 1 if progress.between_tasks and progress.task else progress.task
        self.network = self.problem.network_of(last)
        self.model: ModelState
        self.teacher: ModelState | None = None
        self.resumed: TrainState | None = None  # the state of the interrupted stage

    def run(self) -> dict[str, Any]:
        """Train the remaining tasks, and return the results."""
        self._restore()
        if self.progress.task == self.problem.scenario.num_tasks:  # and its model was removed
            self._write_model(self.progress.task - 1, self._class_means())
            self._write_exemplars()
        for task in range(self.progress.task, self.problem.scenario.num_tasks):
            self._task(task)
        report = self._report()
        hosts.barrier("finished")
        if report:
            own = self.progress.timing[self.problem.first_task :]
            took = in_words(sum(results.seconds(own).values()))
            self.display.line(f"finished after {took}: {self.folder / 'results.json'}")
        return report

    def _task(self, task: int) -> None:
        """Learn the classes of a task."""
        if self.progress.between_tasks:
            self._begin(task)
        first_epoch, finished = 0, self.problem.finished_stages(task)
        for number, stage in enumerate(self.problem.stages(task)):
            if stage.records == "memory":
                self._remember(task)
            if number >= max(self.progress.stage, finished):
                kept = self.progress.exemplars
                self._train(choose_records(self.problem, kept, stage, task, number, first_epoch))
            first_epoch += stage.epochs
        self._remember(task)
        self._evaluate(task)
        self._finish(task)

    # the parts of a task, in order

    def _begin(self, task: int) -> None:
        """Keep the last model as the teacher, and prepare the model for the new classes."""
        info = self.problem.task_info(task, self.progress.exemplars)
        with self.clock("prepare"):
            self.teacher = self.model if self.problem.method.teacher and task > 0 else None
            network = self.problem.network_of(task)
            probe = self.trainer.probe(network)
            model = self.model
            if network != self.network:
                model = self.problem.method.grow(model, info, probe)
                self.network = network
            self._change(self.problem.method.begin_task(model, info, probe))

    def _train(self, work: Work) -> None:
        """Train the rest of a stage; log every epoch, save at intervals and on a stop request."""
        epoch = work.steps_per_epoch(self.problem.config.train.batch_size)
        total = work.stage.epochs * epoch
        interval = self.problem.config.runtime.checkpoint_epochs * epoch
        if work.number > self.progress.stage:
            self.progress = dataclasses.replace(self.progress, stage=work.number, step=0)
        if self.resumed is None:
            if work.stage.teacher == "start":
                self.teacher = self.model
            if work.stage.prepare:
                info = self.problem.task_info(work.task, self.progress.exemplars)
                probe = self.trainer.probe(self.network)
                self._change(work.stage.prepare(self.model, info, probe))
        teacher = self.teacher if work.stage.teacher != "none" else None
        tasks, epochs = self.problem.scenario.num_tasks, work.stage.epochs
        self.display.stage(work.task, tasks, work.stage.name, epochs, epoch, self.progress.step)
        self.forecast.start()
        saved = self.progress.step

        def keep(done: int) -> bool:
            nonlocal saved
            due = done // interval > saved // interval
            saved = done if due else saved
            return due

        with self.clock("train"):
            state = self.resumed or self.trainer.start(self.model, work.stage)
            self.resumed = None
            if self.progress.step >= total:  # it was stopped right after the last step
                self.model = state.outcome
            chunks = fit(
                self.trainer,
                self.network,
                work,
                state,
                teacher,
                self.progress.step,
                keep=keep,
                stop=lambda: self._stop_requested() != 0,
                waiting_for_data=lambda: self.clock("wait"),
            )
            del state  # donated to the first chunk
            for chunk in chunks:
                self._log_steps(work, epoch, chunk.done, chunk.metrics)
                if chunk.state is not None:
                    if not all_finite(chunk.state):
                        raise self._not_finite("training state", work, self.progress.step - 1)
                    self.model = chunk.state.outcome if chunk.done == total else chunk.state.model
                    stopped = self._stop_requested()
                    if chunk.done < total or stopped:
                        self._save(chunk.state)
                    if stopped:
                        raise Stopped(stopped)
        self._count(work.stage, total)

    def _remember(self, task: int) -> None:
        """Correct the model and choose the exemplars of the new classes, once a task."""
        config, scenario = self.problem.config, self.problem.scenario
        old, seen = scenario.classes_before(task), scenario.classes_after(task)
        if len(self.progress.exemplars) == seen:
            return
        self.display.doing("choosing exemplars")
        probe = self.trainer.probe(self.network)
        info = self.problem.task_info(task, self.progress.exemplars)
        with self.clock("correct"):
            self._change(self.problem.method.end_training(self.model, info, probe))
        with self.clock("remember"):
            kept = self.problem.memory(self.progress.exemplars)
            records = self.problem.records[old:seen]
            quota = kept.quota([len(r) for r in self.problem.records[:seen]])
            ranked: list[list[int]] = [[] for _ in records]
            if any(quota):
                features = probe.features(self.model, np.concatenate(records))
                parts = np.split(features, np.cumsum([len(r) for r in records])[:-1])
                chosen = []
                for i, (part, record) in enumerate(zip(parts, records, strict=True)):
                    rng = generator(config.seed, Purpose.SELECTION, task, old + i)
                    best = memory.select(part, quota[old + i], config.memory.selection, rng=rng)
                    chosen.append(record[best])
                ranked = [best.tolist() for best in hosts.of_main(chosen)]
            exemplars = kept.add(ranked).exemplars
        self.progress = dataclasses.replace(self.progress, exemplars=exemplars)

    def _evaluate(self, task: int) -> None:
        """Predict the test images of all classes seen, and write predictions, model and results.

        With `dataset.validation` these are the validation images.
        """
        problem, seen = self.problem, self.problem.scenario.classes_after(task)
        self.display.doing("evaluating")
        with self.clock("evaluate"):
            test = problem.test_records(seen)
            means = self._class_means()
            cnn, nme, mean_scores = evaluate.predict(
                problem.method,
                self.model,
                problem.scenario,
                seen,
                means,
                self.trainer.probe(self.network, test=True),
                test,
                flip=problem.config.model.flip,
            )
            if hosts.is_main():
                labels = problem.dataset.test.labels[test]
                predictions.write(self.folder, task, labels, cnn, nme)
        with self.clock("save"):
            self._write_model(task, means)
            if task == problem.scenario.num_tasks - 1:
                self._write_exemplars()
        self._count_saved(task)
        self.progress = dataclasses.replace(
            self.progress,
            history=(*self.progress.history, self.progress.exemplars),
            timing=(*self.progress.timing, self.clock.seconds),
        )
        self.clock.restart({})
        summary = self._report()
        kinds = [kind for kind in ("cnn", "nme") if summary.get(kind)]
        accuracy = {kind: summary[kind]["accuracy"][-1] for kind in kinds}
        split = results.evaluated_on(problem.config)
        logits = evaluate.old_and_new(mean_scores, problem.scenario.classes_before(task))
        note = {"task": task, "classes": seen, "evaluated_on": split, **accuracy, **logits}
        self._note("task", self.progress.total_steps, note)
        names = {kind: results.column_name(kind, summary["flip"]) for kind in kinds}
        shown = ", ".join(f"{names[kind]} {value:.2f} %" for kind, value in accuracy.items())
        shown += " on validation images" * (split == "validation")
        self.display.line(f"task {task + 1}/{problem.scenario.num_tasks}: {seen} classes, {shown}")

    def _finish(self, task: int) -> None:
        self.progress = dataclasses.replace(self.progress, task=task + 1, stage=0, step=0, meter={})
        self._save(None)
        if stopped := self._stop_requested():  # a task without steps has no other place to stop
            raise Stopped(stopped)

    # helpers of these parts

    def _change(self, model: ModelState) -> None:
        """Replace the model by what a hook made of it in the main process."""
        if model is not self.model:
            self.model = mesh_lib.replicate(self.trainer.mesh, hosts.of_main(model))

    def _class_means(self) -> np.ndarray | None:
        probe = self.trainer.probe(self.network)
        return evaluate.class_means(self.model, self.progress.exemplars, probe)

    def _write_model(self, task: int, means: np.ndarray | None) -> None:
        if not hosts.is_main():
            return
        problem = self.problem
        write_model(
            self.folder,
            problem.config,
            problem.dataset,
            problem.scenario,
            task,
            self.model,
            means,
        )

    def _write_exemplars(self) -> None:
        if not hosts.is_main():
            return
        dataset, order = self.problem.dataset, self.problem.scenario.class_order
        exemplars.write(self.folder, dataset.train, self.progress.exemplars, order)

    def _log_steps(
        self, work: Work, epoch_steps: int, done: int, metrics: dict[str, np.ndarray]
    ) -> None:
        """Average the steps' metrics over each epoch, and log the complete epochs."""
        before = self.progress
        finite = np.isfinite(metrics["loss"])
        if not finite.all():
            raise self._not_finite("loss", work, before.step + int(np.argmin(finite)))
        count = len(metrics["loss"])
        meter = dict(before.meter)
        for i, step in enumerate(range(done - count + 1, done + 1)):
            for key, values in metrics.items():
                meter[key] = meter.get(key, 0.0) + float(values[i])
            if step % epoch_steps == 0:
                means = {key: value / epoch_steps for key, value in meter.items()}
                epoch = step // epoch_steps
                place = {"task": work.task, "stage": work.number, "epoch": epoch}
                self._note("epoch", before.total_steps + i + 1, {**place, **means})
                meter = {}
        self.progress = dataclasses.replace(
            before, step=done, total_steps=before.total_steps + count, meter=meter
        )
        self.forecast.chunk(work.stage, count)
        left = work.stage.epochs * epoch_steps - done
        ahead = self.forecast.left(work.task, work.number, left, self.progress.timing)
        self.display.steps(done, metrics["loss"].mean(), ahead)

    def _not_finite(self, what: str, work: Work, step: int) -> UserError:
        """Make the error for numbers that are not finite at a step of a stage."""
        epoch = step // work.steps_per_epoch(self.problem.config.train.batch_size) + 1
        return UserError(
            f"the {what} is not finite in task {work.task + 1}, epoch {epoch} of the "
            f"{work.stage.name} (learning rate {work.stage.learning_rate:g}): try a lower "
            f"train.learning_rate in another --workdir; what {self.folder} has is finite"
        )

    def _count(self, stage: Stage, steps: int, prefix: str = "") -> None:
        """Add the steps of a stage to the clock's counts."""
        counts = self.clock.seconds
        for name in ("steps", "head_steps") if stage.head_only else ("steps",):
            counts[prefix + name] = counts.get(prefix + name, 0) + steps

    def _count_saved(self, task: int) -> None:
        """Count the steps of the stages that a balanced loss leaves out."""
        kept = len(self.problem.memory(self.progress.exemplars).indices)
        batch_size = self.problem.config.train.batch_size
        for stage in self.problem.all_stages(task):
            if self.problem.saves(stage):
                self._count(stage, stage.epochs * steps_per_epoch(kept, batch_size), "saved_")

    def _stop_requested(self) -> int:
        """Return the number of the signal that a process got, 0 without one."""
        return self.asked(self.stop.requested or 0)

    def _note(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Add an entry to the log."""
        if self.log is not None:
            self.log.write(kind, step, values)

    def _report(self) -> dict[str, Any]:
        """Write the results and return them; nothing in other processes than the main one."""
        if not hosts.is_main():
            return {}
        problem, progress = self.problem, self.progress
        parts = (problem.config, problem.dataset, problem.scenario, progress)
        return results.write(self.folder, *parts, problem.sizes(len(progress.history)))

    def _save(self, state: TrainState | None) -> None:
        """Save a checkpoint, within a stage or between tasks."""
        with self.clock("save"):
            self.progress = dataclasses.replace(self.progress, clock=dict(self.clock.seconds))
            if self.log is not None and self.claim is not None:
                self.claim.check()
                self.place.keep()
                self.progress = dataclasses.replace(
                    self.progress, log_bytes=self.log.bytes, log_digest=self.log.digest
                )
            if state is None:
                self.checkpoints.save(self.progress, self.model)
            else:
                self.checkpoints.save(self.progress, state.model, self.teacher, state.training)

    def _restore(self) -> None:
        """Restore the state of the newest checkpoint, or make the initial one."""
        progress, start = self.progress, self.problem.start
        if not self.checkpoints.saved:
            self.model = self.trainer.probe(self.network).initial
            if start and not isinstance(start, Pretrained):  # whose weights `initial` has
                self.model = start.model(self.model)
            return
        self.model = self.checkpoints.model()
        self.clock.restart(progress.clock)
        if progress.task == self.problem.scenario.num_tasks:
            return
        if not progress.between_tasks:
            stage = self.problem.stages(progress.task)[progress.stage]
            if stage.teacher == "start" or (self.problem.method.teacher and progress.task > 0):
                self.teacher = self.checkpoints.teacher()
            fresh = self.trainer.start(self.model, stage)
            self.resumed = TrainState(self.model, *self.checkpoints.training(fresh.training))
        where = f"task {progress.task + 1}/{self.problem.scenario.num_tasks}"
        self.display.line(f"resuming {where} at step {progress.step}")
