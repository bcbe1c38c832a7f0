"""How a run ends, and what a finished one needs: signals, devices, terminals, images."""

import errno
import io
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from typing import Any, Literal

import jax
import numpy as np
import pytest
from tiny_run import make_config, some_digits, without_timing

from bsce_jax.data.source import ArraySource
from bsce_jax.errors import Stopped, UserError, exit_on_user_error
from bsce_jax.runs.saved import SavedRun
from bsce_jax.training.loop import run
from bsce_jax.training.mesh import needing_memory
from bsce_jax.training.problem import Problem
from bsce_jax.training.signals import StopRequest

KINDS: tuple[Literal["cnn", "nme"], ...] = ("cnn", "nme")
ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_asks_and_the_second_one_insists(kind: signal.Signals) -> None:
    insisted = []
    before = signal.signal(kind, lambda *_: insisted.append(kind))
    try:
        with StopRequest() as stop:
            assert stop.requested is None
            signal.raise_signal(kind)
            assert stop.requested == kind
            assert not insisted
            signal.raise_signal(kind)
            assert insisted == [kind]
    finally:
        signal.signal(kind, before)


def test_a_signal_that_is_ignored_stays_so() -> None:
    """As nohup leaves the one of a terminal that is closed."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.requested is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_task_without_training_can_be_stopped_too(tmp_path: pathlib.Path) -> None:
    fields = {"train.epochs": 1, "method.width": 8, "scenario.base": 4, "scenario.increment": 2}
    config = make_config("acil", fields=fields)
    ended = []

    def stop_after_the_second_task(record: dict[str, Any]) -> None:
        ended.append(record["kind"] == "task")
        if sum(ended) == 2:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Stopped):
        run(config, tmp_path / "run", some_digits(8, 2), stop_after_the_second_task)
    assert sum(ended) == 2
    results = run(config, tmp_path / "run", some_digits(8, 2))
    wanted = run(config, tmp_path / "straight", some_digits(8, 2))
    assert without_timing(results) == without_timing(wanted)


def test_a_finished_run_reads_no_image(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = some_digits(8, 2)
    config = make_config("replay", fields={"train.epochs": 1, "model.name": "tiny_linear"})
    first = run(config, tmp_path, dataset)

    def refuse(*_: object) -> None:
        raise AssertionError("an image was read")

    monkeypatch.setattr(ArraySource, "images", refuse)
    assert run(config, tmp_path, dataset) == first
    assert "is finished already" in capsys.readouterr().err


def test_a_model_that_was_removed_is_written_again(tmp_path: pathlib.Path) -> None:
    dataset = some_digits(8, 2)
    config = make_config("replay", fields={"train.epochs": 1, "model.name": "tiny_linear"})
    run(config, tmp_path, dataset)
    images = dataset.test.images(range(20))
    before = [SavedRun.open(tmp_path).predict(images, by) for by in KINDS]
    shutil.rmtree(tmp_path / "model")
    run(config, tmp_path, dataset)
    after = [SavedRun.open(tmp_path).predict(images, by) for by in KINDS]
    np.testing.assert_array_equal(before, after)


def test_a_batch_larger_than_the_data_is_refused() -> None:
    config = make_config("replay", fields={"train.batch_size": 1000})
    with pytest.raises(UserError, match=r"train.batch_size is 1000, and .* has 80 training images"):
        Problem(config, some_digits(8, 2))


def test_a_device_that_is_not_there_is_named(tmp_path: pathlib.Path) -> None:
    words = [sys.executable, "-m", "bsce_jax.train", "--config=digits", f"--workdir={tmp_path}/run"]
    environment = {**os.environ, "JAX_PLATFORMS": "cuda"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: jax cannot use JAX_PLATFORMS=cuda: ")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_full_memory_is_said_in_one_line() -> None:
    for full in (MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 bytes")):
        said = pytest.raises(UserError, match=r"out of memory with train.batch_size=64")
        with said, needing_memory(64):
            raise full
    with pytest.raises(jax.errors.JaxRuntimeError, match="another"), needing_memory(64):
        raise jax.errors.JaxRuntimeError("INTERNAL: another")


def test_a_name_with_a_newline_makes_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise UserError("cannot read a\nb\x1b[31m as an image")

    with pytest.raises(SystemExit):
        exit_on_user_error(fail)
    assert capsys.readouterr().err == "error: cannot read a\\nb\\x1b[31m as an image\n"


def test_a_path_that_cannot_be_used_is_said_in_one_line(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def forbidden() -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "elsewhere/run")

    def too_long() -> None:
        (tmp_path / ("x" * 300)).is_dir()

    commands = {
        "elsewhere/run: Permission denied": forbidden,
        f"{tmp_path / ('x' * 300)}: File name too long": too_long,
    }
    for message, command in commands.items():
        with pytest.raises(SystemExit) as ended:
            exit_on_user_error(command)
        assert ended.value.code == 2
        assert capsys.readouterr().err == f"error: cannot use {message}\n"

    def broken() -> None:  # no input of the user's
        raise FileNotFoundError(errno.ENOENT, "No such file", "published.csv")

    with pytest.raises(FileNotFoundError):
        exit_on_user_error(broken)


def test_what_the_terminal_cannot_show_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    stdout = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    exit_on_user_error(lambda: print("café"))
    stdout.seek(0)
    assert stdout.read() == "caf\\xe9\n"


def test_a_reader_that_is_gone_does_not_stop_the_training(tmp_path: pathlib.Path) -> None:
    words = [sys.executable, "-m", "bsce_jax.train", "--config=digits:base=5,increment=5"]
    words += [f"--workdir={tmp_path}/run", "--config.train.epochs=1"]
    read, write = os.pipe()
    os.close(read)
    subprocess.run(words, cwd=ROOT, stdout=write, stderr=write)
    os.close(write)
    assert (tmp_path / "run" / "results.json").exists()


def test_a_full_disk_behind_stdout_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "bsce_jax", "--help"],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert ended.returncode == 3
    assert ended.stderr == "error: no space left for the output\n"
