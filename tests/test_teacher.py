"""The teacher of a task is the model that the task before left, whatever happens meanwhile."""

import dataclasses
import json
import pathlib
from collections.abc import Iterator
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import assert_same_run, make_config, run_with_interruption, some_digits, weights

from bsce_jax.methods import METHODS, Method, ModelState, Probe, Stage, Step, TaskInfo, Terms
from bsce_jax.runs.saved import SavedRun
from bsce_jax.training.loop import run

TASKS = 3
EPOCHS = 3
DATA = some_digits(12, 2)


@dataclasses.dataclass(frozen=True)
class Watcher(Method):
    """Logs what the teacher says of the batch; doubles the head after every task."""

    teacher: ClassVar[bool] = True

    def stages(self, main: Stage, task: int) -> tuple[Stage, ...]:
        return (main,) if task == 0 else (main, main.balanced_finetuning(epochs=2))

    def terms(self, step: Step) -> Terms:
        heights = jnp.max(jnp.where(step.task.old, step.teacher.logits, -jnp.inf), axis=-1)
        own = jnp.mean(jnp.square(step.previous.params["head"]["bias"]))
        return {
            "classification": step.classification(),
            "teacher": step.mean(heights),
            "bias": own,
        }

    def end_training(self, model: ModelState, task: TaskInfo, probe: Probe) -> ModelState:
        head = {name: 2 * value for name, value in model.params["head"].items()}
        return dataclasses.replace(model, params={**model.params, "head": head})


@pytest.fixture(scope="module")
def watched() -> Iterator[Any]:
    """The config of a watched run: one batch holds all that a task is trained on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(METHODS, "_things", dict(METHODS._things))
        patch.setattr(METHODS, "_places", dict(METHODS._places))
        METHODS.register("watcher")(Watcher)
        fields = {
            "scenario.base": 4,
            "scenario.increment": 3,
            "train.epochs": EPOCHS,
            "train.batch_size": 128,
            "runtime.keep_models": "all",
            "runtime.checkpoint_epochs": 1,
        }
        yield make_config("watcher", "cross_entropy", fields)


@pytest.fixture(scope="module")
def folder(watched: Any, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("watched")
    run(watched, folder, DATA)
    return folder


def epochs(folder: pathlib.Path, task: int, stage: int = 0) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [
        line
        for line in lines
        if line["kind"] == "epoch" and (line["task"], line["stage"]) == (task, stage)
    ]


@pytest.mark.parametrize("task", range(1, TASKS))
def test_the_teacher_is_the_model_after_the_task_before(folder: pathlib.Path, task: int) -> None:
    saved = SavedRun.open(folder, task - 1)
    old = len(saved.class_names)
    exemplars = saved.results["memory"]["indices"]
    trained = np.concatenate(
        [
            np.concatenate([np.array(e) for e in exemplars[task - 1]]),
            np.flatnonzero((DATA.train.labels >= old) & (DATA.train.labels < old + 3)),
        ]
    )
    heights = saved.predict(DATA.train.images(trained)).max(axis=1)
    bias = np.square(weights(folder, task - 1)["params/head/bias"]).mean()
    lines = epochs(folder, task)
    assert len(lines) == EPOCHS
    for line in lines:
        np.testing.assert_allclose(line["teacher"], heights.mean(), rtol=1e-4)
        np.testing.assert_allclose(line["bias"], bias, rtol=1e-5)
    # in a fine-tuning stage too
    kept = np.concatenate([np.array(e) for e in exemplars[task]])
    heights = saved.predict(DATA.train.images(kept)).max(axis=1)
    lines = epochs(folder, task, stage=1)
    assert len(lines) == 2
    for line in lines:
        np.testing.assert_allclose(line["teacher"], heights.mean(), rtol=1e-4)


def test_in_the_first_task_there_is_none(folder: pathlib.Path) -> None:
    assert all("teacher" not in line for line in epochs(folder, 0))


@pytest.mark.parametrize("stage", [0, 1])
def test_the_teacher_is_there_again_after_a_stop(
    watched: Any, folder: pathlib.Path, tmp_path: pathlib.Path, stage: int
) -> None:
    run_with_interruption(watched, DATA, tmp_path, "stopped", task=2, stage=stage, epoch=1)
    assert_same_run(tmp_path, folder, TASKS - 1)
