"""Starvation: too little space, memory or too few descriptors; then the same call with enough."""

import collections
import contextlib
import multiprocessing
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np

from bsce_jax.errors import UserError

from . import cases
from .kill import CONTEXT

REFUSED, RAW = 2, 1  # exit codes of a child: one line was said; another exception was raised
KINDS = ("space", "memory", "descriptors")


def try_starving(
    name: str,
    straight: pathlib.Path,
    place: pathlib.Path,
    kinds: Sequence[str],
    rng: np.random.Generator,
    least: int,
    end: float,
) -> tuple[collections.Counter[str], list[str]]:
    """Starve runs of a case at random limits, and let them go on without the limit.

    Args:
      name: of the case.
      straight: the folder of an undisturbed run of it.
      place: a folder to work in.
      kinds: of starvation, from `KINDS`.
      rng: chooses the kinds and the limits.
      least: runs that were starved, at least.
      end: time (of time.monotonic) after which it stops.

    Returns:
      How often each kind ended in which way, and the failures.
    """
    done: collections.Counter[str] = collections.Counter()
    failures = []
    while sum(done.values()) < least and time.monotonic() < end:
        kind = str(rng.choice(list(kinds)))
        limit = int(_LIMITS[kind][0] * (_LIMITS[kind][1] / _LIMITS[kind][0]) ** rng.random())
        folder = place / "starved" / "run"
        shutil.rmtree(folder.parent, ignore_errors=True)
        folder.parent.mkdir(parents=True)
        with small_disk(folder.parent, limit) if kind == "space" else contextlib.nullcontext():
            code = _attempt(name, folder, kind, limit)
            if kind == "space":
                size = ["mount", "-o", "remount,size=100m", os.fspath(folder.parent)]
                subprocess.run(size, check=True)
            again = _attempt(name, folder, "", 0)
            wrong = cases.differences(folder, straight) if again == 0 else [f"code {again}"]
        ends: dict[int | None, str] = {
            0: "finished",
            REFUSED: "said in one line",
            RAW: "a traceback",
        }
        done[f"{kind}: {ends.get(code, 'ended by the system')}"] += 1
        if code == RAW or wrong:
            failures.append(f"{name} with {kind} {limit}: code {code}, then {wrong or 'right'}")
    return done, failures


# KiB of a disk, MiB above what is in use, descriptors above those in use
_LIMITS = {"space": (20, 4000), "memory": (5, 3000), "descriptors": (1, 60)}


@contextlib.contextmanager
def small_disk(place: pathlib.Path, kilobytes: int) -> Iterator[None]:
    """Mount a disk of so many kilobytes on a folder; only root can."""
    words = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", os.fspath(place)]
    subprocess.run(words, check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def _attempt(name: str, folder: pathlib.Path, kind: str, limit: int) -> int | None:
    process = CONTEXT.Process(target=_child, args=(name, folder, kind, limit))
    process.start()
    process.join()
    return process.exitcode


def _child(name: str, folder: pathlib.Path, kind: str, limit: int) -> None:
    if kind == "memory":
        used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * os.sysconf(
            "SC_PAGE_SIZE"
        )
        resource.setrlimit(resource.RLIMIT_AS, (used + limit * 2**20,) * 2)
    if kind == "descriptors":
        used = max(map(int, os.listdir("/proc/self/fd")))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + limit,) * 2)
    try:
        cases.train(cases.CASES[name], folder)
    except UserError as error:
        print(multiprocessing.current_process().name, error, file=sys.stderr)
        sys.exit(REFUSED if "\n" not in str(error) else RAW)
