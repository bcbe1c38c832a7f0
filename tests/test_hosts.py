"""Runs of several processes on this machine: the results of one, common stops, prompt ends."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from bsce_jax import hosts
from bsce_jax.errors import UserError
from bsce_jax.training.mesh import make_mesh

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIG = [sys.executable, "-m", "bsce_jax.train", "--config=digits:base=5,increment=5"]
Process = subprocess.Popen[str]


def start(
    folder: pathlib.Path,
    processes: int,
    devices: int,
    *words: str,
    last: Sequence[str] = (),
    here: pathlib.Path = ROOT,
) -> list[Process]:
    """Start the processes of a run in the folder `here`; `last` are words of the last one alone."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)}
    started = []
    for number in range(processes):
        own = [f"--coordinator=localhost:{port}", f"--processes={processes}"]
        own += [f"--process={number}", *(last if number == processes - 1 else ())]
        command = [*CONFIG, f"--workdir={folder}", *words, *(own if processes > 1 else [])]
        started.append(
            subprocess.Popen(
                command,
                cwd=here,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return started


def end(started: list[Process]) -> tuple[list[int], list[str], list[str]]:
    """Wait for processes: their exit codes, and what they wrote to stdout and stderr."""
    said = [process.communicate(timeout=120) for process in started]
    codes = [process.returncode for process in started]
    return codes, [out for out, _ in said], [error for _, error in said]


def results(folder: pathlib.Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def wait_for_epoch(folder: pathlib.Path, task: int, started: list[Process]) -> None:
    """Wait until an epoch of a task is logged."""
    while all(process.poll() is None for process in started):
        log = folder / "metrics.jsonl"
        if log.exists() and f'"task": {task}, "stage": 0, "epoch": 1,' in log.read_text():
            return
        time.sleep(0.05)
    raise AssertionError(end(started))


@pytest.mark.parametrize(
    ("processes", "devices"), [(2, 2), pytest.param(4, 1, marks=pytest.mark.slow)]
)
def test_processes_with_devices_of_their_own_give_the_results_of_one(
    tmp_path: pathlib.Path, processes: int, devices: int
) -> None:
    fields = ["--config.train.epochs=2", "--config.runtime.feed=streamed"]
    # herding depends on the features, whose last digits depend on the order of sums
    fields += ["--config.memory.selection=random"]
    one = start(tmp_path / "one", 1, 4, *fields)
    assert end(one)[0] == [0]
    codes, out, _ = end(start(tmp_path / "more", processes, devices, *fields))
    assert codes == [0] * processes
    # the main process alone prints
    assert ["average incremental accuracy" in text for text in out] == [True] + [False] * (
        processes - 1
    )
    wanted, found = results(tmp_path / "one"), results(tmp_path / "more")
    assert found["memory"] == wanted["memory"]
    # sums over four devices are taken in another order
    for kind in ("cnn", "nme"):
        np.testing.assert_allclose(found[kind]["accuracy"], wanted[kind]["accuracy"], atol=2)
    logs = [
        [json.loads(line) for line in (tmp_path / f / "metrics.jsonl").read_text().splitlines()]
        for f in ("one", "more")
    ]
    losses = [[entry["loss"] for entry in log if entry["kind"] == "epoch"] for log in logs]
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-2)


ROUNDS_ALONE = '''
"""A method whose hooks compute other numbers in each process, as other CPUs would."""
import dataclasses
import jax, numpy as np
from bsce_jax import config
from bsce_jax.methods import METHODS
from bsce_jax.methods.replay import Replay

@METHODS.register("rounds_alone")
@dataclasses.dataclass(frozen=True)
class RoundsAlone(Replay):
    def begin_task(self, model, task, probe):
        head = model.params["head"]
        bias = np.asarray(head["bias"]) + 0.5 + jax.process_index()
        head = {**head, "bias": jax.numpy.asarray(bias)}
        return dataclasses.replace(model, params={**model.params, "head": head})

    def end_training(self, model, task, probe):
        for path, array in jax.tree_util.tree_leaves_with_path(model.params):
            (own,) = {shard.data.tobytes() for shard in array.addressable_shards}
            with open(f"{jax.process_index()}.txt", "a") as seen:
                print(jax.tree_util.keystr(path), own.hex(), file=seen)
        return model

def get_config(arg=""):
    c = config.default("rounds_alone", "cross_entropy")
    c.scenario.base = c.scenario.increment = 5
    c.train.epochs = 1
    return c
'''


def test_processes_that_compute_other_numbers_train_one_model(tmp_path: pathlib.Path) -> None:
    (tmp_path / "own.py").write_text(ROUNDS_ALONE)
    codes, _, errors = end(start(tmp_path / "run", 2, 2, "--config=own.py", here=tmp_path))
    assert codes == [0, 0], errors
    first, second = ((tmp_path / f"{number}.txt").read_text() for number in (0, 1))
    assert first == second
    assert first.count("['head']['bias']") == 2  # tasks


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_and_fewer_go_on(tmp_path: pathlib.Path) -> None:
    fields = ["--config.train.epochs=8", "--config.runtime.checkpoint_epochs=100"]
    started = start(tmp_path / "run", 2, 1, *fields)
    wait_for_epoch(tmp_path / "run", 1, started)
    started[1].send_signal(signal.SIGTERM)
    codes, _, errors = end(started)
    assert codes == [143, 143]
    assert "the same command goes on" in errors[0]
    codes, _, errors = end(start(tmp_path / "run", 1, 1, *fields))
    assert codes == [0]
    assert "resuming task 2/2 at step" in errors[0]
    assert results(tmp_path / "run")["cnn"]["last"] > 70


def test_when_one_process_dies_the_others_end_in_one_line(tmp_path: pathlib.Path) -> None:
    fields = ["--config.train.epochs=5000"]
    started = start(tmp_path / "run", 2, 1, *fields)
    wait_for_epoch(tmp_path / "run", 0, started)
    started[1].kill()
    codes, _, errors = end(started)
    assert codes == [1, -signal.SIGKILL]
    assert errors[0].splitlines()[-1].startswith("error: process 0 lost another one: ")
    assert "Traceback" not in errors[0]


def test_processes_with_different_configs_are_refused(tmp_path: pathlib.Path) -> None:
    codes, _, errors = end(start(tmp_path / "run", 2, 1, last=["--config.seed=7"]))
    assert codes == [2, 2]
    for error in errors:
        assert "error: process 1 has another config or data than process 0" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("localhost:1", None, None), "together"),
        ((None, 2, 0), "together"),
        (("localhost:1", 2, 2), "--process is 2: it must be 0 to 1"),
        (("localhost", 2, 0), "must be HOST:PORT"),
    ],
)
def test_incomplete_arguments_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        hosts.initialize(*arguments)


def test_one_process_needs_nobody() -> None:
    hosts.initialize("localhost:1", 1, 0)
    hosts.initialize(None, None, None)
    assert (hosts.count(), hosts.is_main()) == (1, True)
    hosts.barrier("nobody")
    hosts.check_same("text", "any")
    assert hosts.SharedRequest(make_mesh())(15) == 15
