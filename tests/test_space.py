"""A full disk: one line, an exit code of its own, and the same results once there is room."""

import contextlib
import errno
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest
from tiny_run import without_timing

from bsce_jax.errors import NoSpace, using

ROOT = pathlib.Path(__file__).resolve().parent.parent


@contextlib.contextmanager
def small_disk(place: pathlib.Path, kilobytes: int) -> Iterator[None]:
    """A disk of so many kilobytes, where this process may mount one."""
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("a small disk can be mounted by root alone")
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def train(folder: pathlib.Path) -> "subprocess.CompletedProcess[str]":
    words = [sys.executable, "-m", "bsce_jax.train", "--config=digits:base=5,increment=5"]
    words += [f"--workdir={folder}", "--config.train.epochs=3"]
    words += ["--config.runtime.checkpoint_epochs=1"]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True)


# starts of the lines that tell what a run does
PROGRESS = ("data:", "images:", "tasks:", "method:", "devices:", "compiling ", "resuming ", "task ")


def test_it_stops_in_one_line_and_goes_on_when_there_is_room(tmp_path: pathlib.Path) -> None:
    assert train(tmp_path / "straight").returncode == 0
    wanted = json.loads((tmp_path / "straight" / "results.json").read_text())
    disk = tmp_path / "disk"
    with small_disk(disk, 500):
        done = train(disk / "run")
        assert done.returncode == 3
        lines = [line for line in done.stderr.splitlines() if not line.startswith(PROGRESS)]
        line = f"error: no space left in {disk}/run: free some and give the same command"
        assert lines == [line], done.stderr
        subprocess.run(["mount", "-o", "remount,size=9000k", str(disk)], check=True)
        done = train(disk / "run")
        assert done.returncode == 0, done.stderr
        found = json.loads((disk / "run" / "results.json").read_text())
    assert without_timing(found) == without_timing(wanted)


def test_errors_of_other_libraries_are_recognised(tmp_path: pathlib.Path) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(NoSpace, match="no space left in"), using(tmp_path):
        raise full
    with pytest.raises(NoSpace), using(tmp_path):
        raise ValueError(f"RESOURCE_EXHAUSTED: writing: {os.strerror(errno.ENOSPC)}")
    later = ValueError("seek of a closed file")
    later.__context__ = full
    with pytest.raises(NoSpace), using(tmp_path):
        raise later
    with pytest.raises(ValueError, match="another"), using(tmp_path):
        raise ValueError("another")
    with pytest.raises(PermissionError), using(tmp_path):
        raise PermissionError(errno.EACCES, "denied")
