"""A network that grows from task to task: it runs, resumes, and is opened again."""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from tiny_run import (
    assert_same_run,
    make_config,
    run_with_interruption,
    some_digits,
    weights,
    without_timing,
)

from bsce_jax.methods import METHODS, Method, ModelState, Probe, Step, TaskInfo, Terms
from bsce_jax.models import Classifier
from bsce_jax.runs.saved import SavedRun
from bsce_jax.training import loop
from bsce_jax.training.loop import run
from bsce_jax.training.trainer import Trainer

DATA = some_digits(12, 4)
WIDTHS = (4, 6, 6)  # of the three tasks


@dataclasses.dataclass(frozen=True)
class Wider(Method):
    """A convolution with more channels from the second task on, taught by the narrow one."""

    teacher: ClassVar[bool] = True

    def network(self, base: Classifier, task: int, tasks: int) -> Classifier:
        backbone: nn.Module = base.backbone.clone(width=WIDTHS[task])
        return Classifier(backbone, base.head)

    def grow(self, model: ModelState, task: TaskInfo, probe: Probe) -> ModelState:
        """Keep the old channels; the head does not look at the new ones yet."""
        fresh = probe.initial

        def channels(new: Any, old: Any) -> Any:
            return new.at[..., : old.shape[-1]].set(old)

        head, old = fresh.params["head"], model.params["head"]
        pixels, width = 16, WIDTHS[task.index - 1]
        weight = jnp.zeros_like(head["weight"]).reshape(-1, pixels, WIDTHS[task.index])
        weight = channels(weight, old["weight"].reshape(-1, pixels, width))
        weight = weight.reshape(head["weight"].shape)

        def tree_map(new: Any, old: Any) -> Any:
            return {
                name: tree_map(value, old[name])
                if isinstance(value, dict)
                else channels(value, old[name])
                for name, value in new.items()
            }

        return ModelState(
            params={
                "backbone": tree_map(fresh.params["backbone"], model.params["backbone"]),
                "head": {"weight": weight, "bias": old["bias"]},
            },
            batch_stats=tree_map(fresh.batch_stats, model.batch_stats),
            extra=model.extra,
        )

    def begin_task(self, model: ModelState, task: TaskInfo, probe: Probe) -> ModelState:
        return model

    def terms(self, step: Step) -> Terms:
        distance = jnp.sum(jnp.square(step.student.logits - step.teacher.logits), axis=-1)
        return {"classification": step.classification(), "distance": 0.01 * step.mean(distance)}


@pytest.fixture(scope="module")
def wider() -> Iterator[ConfigDict]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(METHODS, "_things", dict(METHODS._things))
        patch.setattr(METHODS, "_places", dict(METHODS._places))
        METHODS.register("wider")(Wider)
        fields = {
            "scenario.base": 4,
            "scenario.increment": 3,
            "runtime.keep_models": "all",
            "runtime.checkpoint_epochs": 1,
        }
        yield make_config("wider", "cross_entropy", fields)


@pytest.fixture(scope="module")
def grown(
    wider: ConfigDict, tmp_path_factory: pytest.TempPathFactory
) -> tuple[pathlib.Path, dict[str, Any], Trainer]:
    """The folder of a run, its results, and what was compiled for it."""
    made = []

    class Noted(Trainer):
        def __init__(self, *args: Any):
            super().__init__(*args)
            made.append(self)

    folder = tmp_path_factory.mktemp("wider")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "Trainer", Noted)
        results = run(wider, folder, DATA)
    return folder, results, made[0]


def test_every_task_has_its_own_width(grown: Any) -> None:
    folder, results, _ = grown
    assert len(results["tasks"]) == len(WIDTHS)
    for task, width in enumerate(WIDTHS):
        kernel = weights(folder, task)["params/backbone/Conv_0/kernel"]
        assert kernel.shape == (3, 3, 1, width)


def test_it_compiles_for_each_pair_of_student_and_teacher(grown: Any) -> None:
    # narrow alone, wide taught by narrow, wide taught by wide
    assert grown[2].compiled == 3


def test_the_saved_models_predict(grown: Any) -> None:
    folder, *_ = grown
    for task in range(len(WIDTHS)):
        saved = SavedRun.open(folder, task)
        with np.load(folder / "predictions" / f"task_{task:02d}.npz") as file:
            labels, cnn, nme = file["labels"], file["cnn_top5"], file["nme_top5"]
        images = DATA.test.images(np.flatnonzero(DATA.test.labels < len(saved.class_names)))
        assert len(images) == len(labels)
        np.testing.assert_array_equal(saved.predict(images).argmax(axis=1), cnn[:, 0])
        np.testing.assert_array_equal(saved.predict(images, by="nme").argmax(axis=1), nme[:, 0])


@pytest.mark.parametrize(
    ("kind", "epoch"), [("stopped", 2), ("killed", 1)], ids=["in the task", "between the tasks"]
)
def test_it_resumes_with_the_right_network(
    wider: ConfigDict, grown: Any, tmp_path: pathlib.Path, kind: str, epoch: int
) -> None:
    """Killed before a checkpoint of the second task, it has to grow once more."""
    resumed = run_with_interruption(wider, DATA, tmp_path, kind, task=1, epoch=epoch)
    assert without_timing(resumed) == without_timing(grown[1])
    for task in range(len(WIDTHS)):
        assert_same_run(tmp_path, grown[0], task)
