"""The loop over tasks and stages: what is compiled, counted, refused, and sent ahead."""

import concurrent.futures
import dataclasses
import json
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import assert_equal, flat_images, main_stage, make_config, some_digits

from bsce_jax.data.plan import epoch_plan
from bsce_jax.errors import UserError
from bsce_jax.methods import METHODS, Method, ModelState, Probe, Stage, Step, TaskInfo, Terms
from bsce_jax.methods.criterion import CRITERIA, Criterion
from bsce_jax.runs.checkpoint import Checkpoints
from bsce_jax.training import fit as fit_lib
from bsce_jax.training import loop
from bsce_jax.training.fit import Work, fit
from bsce_jax.training.problem import Problem
from bsce_jax.training.trainer import Trainer

DATA = some_digits(12, 2)
LINEAR = {"model.name": "tiny_linear"}
FIVE_TASKS = {"scenario.base": 2, "scenario.increment": 2, "train.epochs": 1, **LINEAR}


@pytest.fixture
def trainers(monkeypatch: pytest.MonkeyPatch) -> list[Trainer]:
    """The trainers of the runs of a test."""
    made: list[Trainer] = []

    class Noted(Trainer):
        def __init__(self, problem: Problem):
            super().__init__(problem)
            made.append(self)

    monkeypatch.setattr(loop, "Trainer", Noted)
    return made


def lines(folder: pathlib.Path, kind: str) -> list[dict[str, Any]]:
    found = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in found if line["kind"] == kind]


# --- what is compiled


@pytest.mark.parametrize("method", ["il_baseline", "replay"])
def test_a_run_of_many_tasks_compiles_for_the_first_and_for_all_others(
    method: str, trainers: list[Trainer], tmp_path: pathlib.Path
) -> None:
    results = loop.run(make_config(method, None, FIVE_TASKS), tmp_path, DATA)
    assert len(results["tasks"]) == 5
    assert trainers[0].compiled == 2


# --- what is counted


@pytest.fixture(scope="module")
def lucir(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """LUCIR with three epochs of fine-tuning under two losses: results, seconds, programs."""
    found = {}
    for loss in ("cross_entropy", "balanced_softmax"):
        fields = {
            "scenario.base": 4,
            "scenario.increment": 3,
            "method.finetune_epochs": 3,
            **LINEAR,
        }
        trainers: list[Trainer] = []

        class Noted(Trainer):
            def __init__(self, problem: Problem, noted: list[Trainer] = trainers):
                super().__init__(problem)
                noted.append(self)

        folder = tmp_path_factory.mktemp(loss)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "Trainer", Noted)
            start = time.perf_counter()
            results = loop.run(make_config("lucir", loss, fields), folder, DATA)
            found[loss] = results, time.perf_counter() - start, trainers[0].compiled, folder
    return found


def test_the_finetuning_is_a_third_program(lucir: Any) -> None:
    assert lucir["cross_entropy"][2] == 3  # without a teacher, with one, the head alone
    assert lucir["balanced_softmax"][2] == 2


def test_steps_of_the_head_alone_and_steps_saved_are_counted(lucir: Any) -> None:
    plain, balanced = (lucir[loss][0]["timing"] for loss in ("cross_entropy", "balanced_softmax"))
    # 12 images of 4, 3, 3 classes and 6 exemplars of 4, 7 old ones, in batches of 32
    main = 3 * (2 + 2 + 3)
    # 6 exemplars of 7, 10 classes
    head = 3 * (2 + 2)
    assert (plain["steps"], plain["head_steps"]) == (main + head, head)
    assert plain["finetuning_saved"] == {"steps": 0, "head_steps": 0}
    assert (balanced["steps"], balanced["head_steps"]) == (main, 0)
    assert balanced["finetuning_saved"] == {"steps": head, "head_steps": head}
    last = lines(lucir["cross_entropy"][3], "task")[-1]
    assert last["step"] == main + head


def test_seconds_are_counted_once(lucir: Any) -> None:
    for results, wall, *_ in lucir.values():
        seconds = results["timing"]["seconds"]
        assert {"prepare", "train", "remember", "evaluate", "save"} <= seconds.keys()
        assert all(value >= 0 for value in seconds.values())
        assert sum(seconds.values()) <= wall
        for name, total in seconds.items():
            parts = (task.get(name, 0) for task in results["timing"]["tasks"])
            assert total == pytest.approx(sum(parts))


def test_saving_is_not_training(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = Checkpoints.save

    def slow(*args: Any) -> None:
        time.sleep(0.3)
        save(*args)

    monkeypatch.setattr(Checkpoints, "save", slow)
    monkeypatch.setattr(Problem, "chunk_steps", lambda problem, task, size=0: 1)
    fields = {"scenario.base": 5, "train.epochs": 4, "runtime.checkpoint_epochs": 1}
    made = make_config("finetune", None, {**fields, "model.name": "tiny_linear"})
    start = time.perf_counter()
    seconds = loop.run(made, tmp_path, DATA)["timing"]["seconds"]
    wall = time.perf_counter() - start
    # three in each task, and one between them
    assert seconds["save"] >= 7 * 0.3
    assert sum(seconds.values()) <= wall


# --- where stages begin and end


def test_shuffles_go_on_counting_from_stage_to_stage(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No order comes twice in a task, and a stage on the memory has the new classes too."""
    asked: dict[tuple[int, int], list[int]] = {}

    def noted(records: np.ndarray, *args: Any, task: int, epoch: int, **more: Any) -> Any:
        asked[task, epoch] = sorted(int(r) for r in records)
        return epoch_plan(records, *args, task=task, epoch=epoch, **more)

    monkeypatch.setattr(fit_lib, "epoch_plan", noted)
    fields = {"model.name": "tiny_linear", "method.finetune_epochs": 2, "train.epochs": 3}
    results = loop.run(make_config("eeil", "cross_entropy", fields), tmp_path, DATA)
    assert list(asked) == [*((0, e) for e in range(3)), *((1, e) for e in range(5))]
    first, second = (
        sorted(r for own in kept for r in own) for kept in results["memory"]["indices"]
    )
    new = np.flatnonzero(DATA.train.labels >= 5).tolist()
    assert [asked[1, e] for e in range(3)] == [sorted([*first, *new])] * 3
    assert [asked[1, e] for e in (3, 4)] == [second] * 2


def test_a_task_may_be_trained_on_the_memory_alone(tmp_path: pathlib.Path) -> None:
    @METHODS.register("memory_only")
    @dataclasses.dataclass(frozen=True)
    class MemoryOnly(Method):
        def stages(self, main: Stage, task: int) -> tuple[Stage, ...]:
            later = main.balanced_finetuning(epochs=2, balances=False)
            return main if task == 0 else dataclasses.replace(main, epochs=0), later

    fields = {"model.name": "tiny_linear", "train.epochs": 1}
    made = make_config("memory_only", None, fields)
    results = loop.run(made, tmp_path, DATA)
    # 60 images, twice 30 exemplars; twice 60 exemplars; in batches of 32
    assert results["timing"]["steps"] == (2 + 2 * 1) + 2 * 2


@pytest.mark.parametrize("method", METHODS)
def test_there_is_no_stage_on_an_empty_memory(method: str) -> None:
    fields = {"memory.size": 0, "train.replay_batch_size": 0, "model.name": "resnet8"}
    made = make_config(method, None, fields)
    for task in (0, 1):
        assert all(s.records != "memory" for s in Problem(made, DATA).all_stages(task))


def test_a_run_with_an_empty_memory_has_no_finetuning(tmp_path: pathlib.Path) -> None:
    fields = {"memory.size": 0, "train.epochs": 1, "method.finetune_epochs": 2}
    results = loop.run(make_config("podnet", None, fields), tmp_path, DATA)
    assert results["timing"]["steps"] == 2 + 2  # 60 images a task, in batches of 32


def test_every_task_of_joint_training_is_trained_as_the_first() -> None:
    fields = {
        "train.later_epochs": 1,
        "train.later_learning_rate": 0.01,
        "train.self_distillation_epochs": 3,
    }
    problem = Problem(make_config("joint", None, fields), DATA)
    first, second = problem.all_stages(0), problem.all_stages(1)
    assert [stage.epochs for stage in first] == [problem.config.train.epochs, 3]
    assert first == second


# --- what is refused, and how


def test_a_criterion_that_learns_must_say_how(tmp_path: pathlib.Path) -> None:
    @CRITERIA.register("half_done")
    @dataclasses.dataclass(frozen=True)
    class HalfDone(Criterion):
        def init_state(self, num_classes: int) -> Any:
            return jnp.zeros(())

    made = make_config("replay", "half_done", {"model.name": "tiny_linear"})
    with pytest.raises(TypeError, match="HalfDone has an init_state: define learn too"):
        loop.run(made, tmp_path, DATA)


def test_a_method_is_registered_once() -> None:
    with pytest.raises(UserError, match=r"method 'replay' of .* is registered already"):

        @METHODS.register("replay")
        class Another(Method):
            pass


def test_a_term_may_not_be_called_as_what_is_logged_anyway(tmp_path: pathlib.Path) -> None:
    @METHODS.register("reserved")
    @dataclasses.dataclass(frozen=True)
    class Reserved(Method):
        def terms(self, step: Step) -> Terms:
            return {"loss": step.classification()}

    made = make_config("reserved", None, {"model.name": "tiny_linear"})
    with pytest.raises(UserError) as error:
        loop.run(made, tmp_path, DATA)
    assert str(error.value).startswith("a loss term is called 'loss'")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bad_step", [5, 20])
def test_the_epoch_in_which_the_loss_is_lost_is_named(
    bad_step: int, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is a bias that falls by 1 each step, and is not finite from a step on."""

    @METHODS.register("falls")
    @dataclasses.dataclass(frozen=True)
    class Falls(Method):
        def begin_task(self, model: ModelState, task: TaskInfo, probe: Probe) -> ModelState:
            head = jax.tree.map(jnp.zeros_like, model.params["head"])
            return dataclasses.replace(model, params={**model.params, "head": head})

        def terms(self, step: Step) -> Terms:
            bias = step.params["head"]["bias"][0]
            return {"bias": jnp.where(bias < 0.5 - bad_step, jnp.nan, bias)}

    monkeypatch.setattr(Problem, "chunk_steps", lambda problem, task, size=0: 7)
    fields = {
        "model.name": "tiny_linear",
        "train.epochs": 12,
        "train.learning_rate": 1.0,
        "train.schedule": "constant",
        "train.momentum": 0.0,
        "train.weight_decay": 0.0,
    }
    # 60 images: two steps an epoch
    with pytest.raises(UserError) as error:
        loop.run(make_config("falls", None, fields), tmp_path, DATA)
    epoch = bad_step // 2 + 1
    place = f"task 1, epoch {epoch} of the training (learning rate 1)"
    assert f"the loss is not finite in {place}: try a lower" in str(error.value)
    assert len(lines(tmp_path, "epoch")) == bad_step // 7 * 7 // 2  # of the chunks before


def test_what_is_lost_in_the_last_update_is_noticed(tmp_path: pathlib.Path) -> None:
    """The loss of a step is that before its update: the last update's harm shows in no loss."""

    @METHODS.register("kink")
    @dataclasses.dataclass(frozen=True)
    class Kink(Method):
        def terms(self, step: Step) -> Terms:
            nothing = jnp.sum(step.params["head"]["bias"]) * 0.0
            return {"kink": jnp.sqrt(nothing)}  # 0, with a slope of 0 times infinity

    fields = {"model.name": "tiny_linear", "train.epochs": 1, "train.batch_size": 64}
    with pytest.raises(UserError, match=r"training state is not finite in task 1, epoch 1 "):
        loop.run(make_config("kink", None, fields), tmp_path, DATA)
    assert not (tmp_path / "results.json").exists()
    assert not any(path.is_dir() for path in (tmp_path / "checkpoints").iterdir())


# --- other threads, and chunks sent ahead


def test_a_run_may_be_in_a_thread_of_its_own(tmp_path: pathlib.Path) -> None:
    made = make_config("finetune", None, {"model.name": "tiny_linear", "train.epochs": 1})
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        results = pool.submit(loop.run, made, tmp_path, DATA).result()
    assert len(results["tasks"]) == 2


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> tuple[Trainer, Work]:
    """A stage of five chunks of two steps."""
    fields = {"model.name": "tiny_linear", "train.batch_size": 4, "train.epochs": 5}
    fields |= {"scenario.base": 2, "scenario.increment": 2}
    trainer = Trainer(Problem(make_config("replay", None, fields), flat_images([4] * 4)))
    monkeypatch.setattr(trainer.problem, "chunk_steps", lambda task, size=0: 2)
    records = np.concatenate(trainer.problem.records[:2])
    return trainer, Work(main_stage(trainer.problem), 0, 0, 0, records, None)


def chunks(stage: tuple[Trainer, Work], **more: Any) -> Iterator[Any]:
    trainer, work = stage
    network = trainer.problem.network
    state = trainer.start(trainer.probe(network).initial, work.stage)
    return fit(trainer, network, work, state, None, 0, **more)


def test_a_chunk_is_sent_before_the_one_before_is_reported(
    stage: tuple[Trainer, Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, work = stage
    program = trainer.train_chunk(trainer.problem.network, work.stage)
    events: list[str] = []

    def noted(*args: Any) -> Any:
        events.append(f"sent {int(args[-1].step[0])}")
        return program(*args)

    monkeypatch.setattr(trainer, "train_chunk", lambda *args: noted)
    for chunk in chunks(stage):
        events.append(f"reported {chunk.done - 2}")
    assert events == [
        "sent 0",
        *(event for s in (2, 4, 6, 8) for event in (f"sent {s}", f"reported {s - 2}")),
        "reported 8",
    ]


def test_a_kept_state_is_the_one_after_its_chunk(stage: tuple[Trainer, Work]) -> None:
    kept = {c.done: c.state for c in chunks(stage, keep=lambda done: done == 4)}
    assert [done for done, state in kept.items() if state is not None] == [4, 10]
    asked = iter([False, True])
    *_, stopped = chunks(stage, stop=lambda: next(asked))
    assert stopped.done == 4
    assert_equal(kept[4], stopped.state)
    # and the stage goes on from there to the same end
    trainer, work = stage
    *_, last = fit(trainer, trainer.problem.network, work, stopped.state, None, 4)
    assert last.done == 10
    assert_equal(last.state, kept[10])
