"""What a run shows: what it found, how far it is, the time left, where the results are."""

import pathlib
import re
import time
from typing import Any

import jax
import pytest
from rich.cells import cell_len
from tiny_run import flat_images, make_config, some_digits

from bsce_jax.data import Dataset
from bsce_jax.training import compiler
from bsce_jax.training.clock import in_words
from bsce_jax.training.display import Display
from bsce_jax.training.forecast import Forecast, Left
from bsce_jax.training.loop import run
from bsce_jax.training.overview import overview
from bsce_jax.training.problem import Problem
from bsce_jax.training.trainer import Trainer

LINEAR = {"model.name": "tiny_linear", "train.epochs": 1}
NOT_TIMED = Left(None, None)


def problem(method: str, loss: str | None = None, /, **fields: Any) -> Problem:
    """Ten classes of 20 images in tasks of 4, 3 and 3; batches of 10, 5 exemplars a class."""
    values: dict[str, Any] = {"scenario.base": 4, "scenario.increment": 3, "train.batch_size": 10}
    values |= LINEAR | ({"memory.size": 5} if make_config(method).memory.size else {})
    return Problem(make_config(method, loss, values | fields), some_digits(20, 2))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (205, "3 min 25 s"),
        (599.4, "9 min 59 s"),
        (630, "10 min"),
        (3600, "1 h 0 min"),
        (4330, "1 h 12 min"),
        (36_000, "10 h"),
        (100_000, "1 d 4 h"),
        (10_000_000, "115 d 18 h"),
    ],
)
def test_durations_are_written_for_people(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


# --- how long it still needs


class Time:
    """A clock that tests move."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    made = Time()
    monkeypatch.setattr(time, "perf_counter", made)
    monkeypatch.setattr(time, "monotonic", made)
    return made


def test_planned_steps_are_counted_by_hand() -> None:
    main, balanced = problem("podnet", **{"model.name": "tiny"}).all_stages(1)
    made = problem("podnet", "nca", **{"method.finetune_epochs": 2, "model.name": "tiny"})
    # 60 new images and 20 exemplars; then 5 of each of 7 classes, twice
    assert [made.planned_steps(1, s) for s in made.stages(1)] == [8, 2 * 4]
    assert main.records == "task"
    assert balanced.records == "memory"
    assert made.planned_steps(0, made.stages(0)[0]) == 8
    separate = problem("ss_il", None, **{"train.replay_batch_size": 5})
    assert separate.planned_steps(1, separate.stages(1)[0]) == 6  # exemplars come on top
    joint = problem("joint")
    assert joint.planned_steps(2, joint.stages(2)[0]) == 20


def test_the_time_left_is_known_once_steps_of_its_kind_were_timed(clock: Time) -> None:
    made = problem("il_baseline")  # a teacher in all tasks but the first; 8, 8 and 10 steps
    (first,), (later,) = made.stages(0), made.stages(1)
    ahead = Forecast(made)
    ahead.start()
    assert ahead.left(0, 0, 8, ()) == NOT_TIMED
    clock.now = 100.0  # compiling is not timed
    ahead.chunk(first, 2)
    assert ahead.left(0, 0, 6, ()) == NOT_TIMED
    clock.now = 106.0
    ahead.chunk(first, 2)  # 3 s a step
    assert ahead.left(0, 0, 4, ()) == Left(12.0, None)
    ahead.start()
    clock.now = 200.0
    ahead.chunk(later, 1)
    assert ahead.left(1, 0, 7, ()) == NOT_TIMED
    clock.now = 205.0
    ahead.chunk(later, 1)
    assert ahead.left(1, 0, 6, ()) == Left(30.0, 30.0 + 50.0)
    # the rest of a task, as the last one took it, is for this task and the next
    timing = [{"evaluate": 100.0}, {"train": 50.0, "compile": 9.0, "evaluate": 2.0, "remember": 1}]
    assert ahead.left(1, 0, 6, timing) == Left(30.0, 30.0 + 50.0 + 2 * 3.0)
    assert ahead.left(2, 0, 0, timing) == Left(0.0, 3.0)


def test_the_time_of_steps_without_a_teacher_holds_for_all_tasks(clock: Time) -> None:
    made = problem("replay")
    ahead = Forecast(made)
    ahead.start()
    for now in (0.0, 8.0, 12.0, 16.0, 1000.0):  # a pause does not count
        clock.now = now
        ahead.chunk(made.stages(0)[0], 4)
    assert ahead.left(0, 0, 4, ()) == Left(4.0 * 1.5, 22 * 1.5)


def test_a_stage_that_was_not_timed_counts_as_its_tasks_first(clock: Time) -> None:
    made = problem("podnet", "nca", **{"method.finetune_epochs": 2, "model.name": "tiny"})
    main, balanced = made.stages(1)
    ahead = Forecast(made)
    for stage, end in ((main, 2.0), (balanced, 1.0)):
        ahead.start()
        clock.now = 0.0
        ahead.chunk(stage, 1)
        clock.now = end
        ahead.chunk(stage, 1)
        if stage is main:
            assert ahead.left(1, 0, 5, ()).task == (5 + 8) * 2.0
    assert ahead.left(1, 0, 5, ()).task == 5 * 2.0 + 8 * 1.0
    assert ahead.left(1, 1, 5, ()).task == 5.0


# --- how far it is


def test_off_a_terminal_epochs_are_lines_with_seconds_between(
    clock: Time, capsys: pytest.CaptureFixture[str]
) -> None:
    with Display() as shown:
        shown.stage(1, 6, "training", epochs=160, epoch_steps=10, done=20)
        for now, done, left in (
            (100.0, 25, NOT_TIMED),  # in the epoch where an earlier process stopped
            (101.0, 35, Left(70.0, None)),
            (105.9, 45, NOT_TIMED),
            (106.1, 55, Left(70.0, 7000.0)),
            (120.0, 59, NOT_TIMED),
        ):
            clock.now = now
            shown.steps(done, 1.23456, left)
        shown.doing("evaluating")
        shown.line("runs/[x] is done")
    assert capsys.readouterr().err.splitlines() == [
        "task 2/6, training, epoch 3/160, loss 1.235, 1 min 10 s left",
        "task 2/6, training, epoch 5/160, loss 1.235, 1 min 10 s left (run: 1 h 57 min)",
        "runs/[x] is done",
    ]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes rich take stderr for a terminal of 80 columns."""
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm"), ("COLUMNS", "80")):
        monkeypatch.setenv(name, value)


def frames(written: str) -> list[str]:
    """The lines of all frames, without control sequences."""
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written)
    return [line.rstrip() for line in re.split(r"[\r\n]+", text)]


def test_a_terminal_has_a_bar_for_the_stage_and_one_for_the_run(
    terminal: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Display() as shown:
        shown.line("before any stage")
        shown.stage(11, 51, "balanced fine-tuning", epochs=160, epoch_steps=10, done=0)
        shown._bars.refresh()
        shown.steps(1035, 1.23456, Left(3000.0, 80_000.0))
        shown._bars.refresh()
        monkeypatch.setattr(compiler.clock, "compiling", "jit(chunk)")
        shown._bars.refresh()
        monkeypatch.setattr(compiler.clock, "compiling", None)
        shown.doing("evaluating")
        shown._bars.refresh()
    lines = frames(capsys.readouterr().err)
    assert "before any stage" in lines
    assert max(map(cell_len, lines)) <= 80
    bar = "task 12/51, balanced fine-tuning ━+[╸╺]?━+ "
    run_bar = "run +[━╸╺]+ "
    wanted = [
        f"{run_bar}11/51 tasks",
        f"{bar}epoch 104/160, loss 1.235, 50 min left",
        f"{run_bar}22 h left",
        f"{bar}compiling",
        f"{bar}evaluating",
    ]
    for pattern in wanted:
        assert any(re.fullmatch(pattern, line) for line in lines), pattern


def test_compiling_the_training_step_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    seen = []

    def chunk(x: jax.Array) -> jax.Array:
        seen.append(compiler.clock.compiling)
        return 3 * x + 17

    with Display():
        jax.jit(chunk)(2.0)
        jax.jit(lambda x: 5 * x + 19)(2.0)
    assert capsys.readouterr().err == "compiling the training step, or loading it from the cache\n"
    assert seen == [None]  # traced before
    assert compiler.clock.compiling is None
    assert compiler.clock.watch is None


def test_a_quiet_display_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Display(quiet=True) as shown:
        shown.stage(0, 2, "training", epochs=1, epoch_steps=1, done=0)
        shown.steps(1, 1.0, NOT_TIMED)
        shown.line("a line")
    assert capsys.readouterr() == ("", "")


# --- what it found, and where the results are


def test_a_run_says_what_it_found_and_where_its_results_are(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(make_config("replay", fields=LINEAR), tmp_path / "run", some_digits(20, 8))
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if not line.startswith(("compiling", "task "))]
    *found, last = lines
    assert found == [
        "data:    some digits, 10 classes, images of 8x8x1",
        "images:  200 to train (20 a class), 80 to test",
        "tasks:   2 x 5 classes, 6 exemplars a class",
        "method:  replay with cross_entropy, tiny_linear, seed 0",
        "devices: 1 x cpu, resident feed",
    ]
    assert re.fullmatch(r"finished after \d+ s: .*/run/results\.json", last)


def shown(dataset: Dataset, **fields: Any) -> str:
    config = make_config("replay", fields=LINEAR | fields)
    return "\n".join(overview(Trainer(Problem(config, dataset))))


def test_the_overview_tells_runs_apart() -> None:
    uneven = flat_images([30, 1200, 7, 9, 8, 8, 8])
    text = shown(
        uneven, **{"scenario.base": 3, "scenario.increment": 2, "runtime.feed": "streamed"}
    )
    assert "(7-1,200 a class), 7 to test" in text
    assert "3 + 2 x 2 classes, 6 exemplars a class" in text
    assert "1 x cpu, streamed feed" in text
    fields = {"scenario.class_order": "0,1,3,4", "memory.policy": "total", "memory.size": 2000}
    text = shown(uneven, **fields, **{"scenario.base": 4, "scenario.increment": 1})
    assert "4 of 7 classes" in text
    assert "tasks:   4 classes, 2,000 exemplars in total" in text
    listed = {"scenario.tasks": "0|1,2|3|4,5|6"}
    assert "5 of 1 to 2 classes, no exemplars" in shown(uneven, **listed, **{"memory.size": 0})
