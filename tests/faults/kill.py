"""Kills: SIGKILL at random times and at chosen file operations, also while a run resumes."""

import collections
import multiprocessing
import os
import pathlib
import shutil
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from . import cases

# events of Python's audit hooks that are operations on files
EVENTS = ("open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "shutil.rmtree")
IN_A_ROW = 4  # kills of one run, at most
# children start in a second, since the server that makes them has imported everything
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([f"{__package__}.cases"])


class Undisturbed(NamedTuple):
    """A run without faults.

    Attributes:
      folder: of the run.
      operations: on files in the folder.
      seconds: that it took.
    """

    folder: pathlib.Path
    operations: int
    seconds: float


def undisturbed(name: str, place: pathlib.Path) -> Undisturbed:
    """Train a case from start to end, once to compile and once to measure."""
    folder = place / "undisturbed"
    for _ in range(2):
        shutil.rmtree(folder, ignore_errors=True)
        code, seconds, operations = _attempt(name, folder, None, None)
        if code:
            raise AssertionError(f"{name} ends with code {code} without any fault")
    return Undisturbed(folder, operations, seconds)


def try_kills(
    names: Sequence[str], place: pathlib.Path, rng: np.random.Generator, least: int, end: float
) -> tuple[collections.Counter[str], list[str]]:
    """Kill runs of random cases and let them go on, until there were enough kills.

    Args:
      names: of the cases.
      place: an empty folder to work in.
      rng: chooses the cases and the moments.
      least: kills, at least.
      end: time (of time.monotonic) after which it stops, with fewer kills.

    Returns:
      How often each kind of kill happened, and the failures.
    """
    done: collections.Counter[str] = collections.Counter()
    failures = []
    known: dict[str, Undisturbed] = {}
    while done["kills"] < least and time.monotonic() < end:
        name = str(rng.choice(list(names)))
        own = place / name.replace(" ", "_")
        if name not in known:
            known[name] = undisturbed(name, own)
        straight = known[name]
        folder = own / "killed"
        shutil.rmtree(folder, ignore_errors=True)
        history = []
        for _ in range(int(rng.integers(1, IN_A_ROW + 1))):
            operation, seconds = None, None
            if rng.random() < 0.5:
                operation = int(rng.integers(1, straight.operations + 1))
                history.append(f"operation {operation}")
            else:
                seconds = float(rng.random()) * straight.seconds
                history.append(f"{seconds:.2f} s")
            code, *_ = _attempt(name, folder, operation, seconds)
            if code == -signal.SIGKILL:
                done["kills"] += 1
                done["at a file operation" if operation else "at a random time"] += 1
                done["in a row"] += len(history) > 1
            elif code == 0:
                break  # it finished before
            else:
                failures.append(f"{name} after {history}: code {code}")
        code, *_ = _attempt(name, folder, None, None)
        wrong = cases.differences(folder, straight.folder) if code == 0 else [f"code {code}"]
        done["runs"] += 1
        if wrong:
            failures.append(f"{name} after {history}: {', '.join(wrong)}")
            shutil.copytree(folder, own / f"failed_{done['runs']}", dirs_exist_ok=True)
    done["cases"] = len(known)
    return done, failures


def _attempt(
    name: str, folder: pathlib.Path, operation: int | None, seconds: float | None
) -> tuple[int | None, float, int]:
    """Run a case in a process of its own, killed at a file operation or after some seconds.

    Returns:
      Its exit code, the seconds that it ran, and its file operations if it ended by itself.
    """
    receiver, sender = CONTEXT.Pipe(duplex=False)
    folder.parent.mkdir(parents=True, exist_ok=True)
    process = CONTEXT.Process(target=_child, args=(name, folder, operation, sender))
    process.start()
    sender.close()
    operations = 0
    try:
        receiver.recv()  # everything is imported
        start = time.monotonic()
        if seconds is not None and process.sentinel:
            process.join(seconds)
            process.kill()
        operations = receiver.recv()
    except EOFError:
        pass  # killed
    process.join()
    return process.exitcode, time.monotonic() - start, operations


def _child(name: str, folder: pathlib.Path, operation: int | None, sender: Any) -> None:
    counted = 0
    lock = threading.Lock()
    prefix = os.fspath(folder)

    def count(event: str, args: tuple[Any, ...]) -> None:
        nonlocal counted
        if event not in EVENTS or not isinstance(args[0], str | bytes | os.PathLike):
            return
        if not os.fsdecode(args[0]).startswith(prefix):
            return
        with lock:
            counted += 1
            if counted == operation:
                os.kill(os.getpid(), signal.SIGKILL)

    sender.send(None)
    sys.addaudithook(count)
    cases.train(cases.CASES[name], folder)
    sender.send(counted)
