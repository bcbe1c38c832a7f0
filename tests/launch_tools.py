"""A small checkout to try the scripts of launch/ in, without training and without a cloud."""

import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

ROOT = pathlib.Path(__file__).resolve().parent.parent
INHERITED = ("HOME", "LANG", "LC_ALL", "TMPDIR")


class Checkout:
    """A folder with launch/ and a .venv whose python is `stand_in.py`; PATH has the stubs first.

    Args:
      folder: where to make it.
      stubs: programs by name, as shell scripts; what they are called with is appended to `calls`.
    """

    def __init__(self, folder: pathlib.Path, stubs: Mapping[str, str] = {}):
        self.path = folder / "checkout"
        shutil.copytree(ROOT / "launch", self.path / "launch")
        script = self.path / "launch" / "environment.sh"
        script.write_text(script.read_text() + "make_environment() { :; }\n")
        stand_in = (ROOT / "tests" / "stand_in.py").read_text()
        program(self.path / ".venv" / "bin" / "python", f"#!{sys.executable}\n{stand_in}")
        self.calls = folder / "calls"
        self.calls.touch()
        # without a stub, what starts or costs something fails here
        refused = dict.fromkeys(("docker", "gcloud", "kubectl", "srun"), "exit 99\n")
        for name, text in {**refused, **stubs}.items():
            head = f'#!/usr/bin/env bash\necho "{name} $*" >> {self.calls}\n'
            program(folder / "bin" / name, head + text)
        # not what a user exports for these scripts, such as NAME and ZONE
        kept = {name: value for name, value in os.environ.items() if name in INHERITED}
        self.environment = {**kept, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}

    def start(self, script: str, *args: str, **environment: str) -> "subprocess.Popen[str]":
        """Start a script of launch/, as the leader of a session, with its output as one text."""
        return subprocess.Popen(
            # a program in the background may ignore Ctrl-C, and bash cannot undo that for itself
            ["env", "--default-signal=INT", "bash", f"launch/{script}", *args],
            cwd=self.path,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, script: str, *args: str, code: int = 0, **environment: str) -> str:
        """Run a script of launch/, which must end with this exit code.

        Returns:
          What it printed.
        """
        started = self.start(script, *args, **environment)
        printed, _ = started.communicate(timeout=60)
        assert started.returncode == code, printed
        return printed


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until something is so; after some seconds it is taken for never."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def program(path: pathlib.Path, text: str) -> None:
    """Write a script that can be executed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
