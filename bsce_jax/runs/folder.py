"""The lock of a run's folder, and the config that the run was started with."""

import contextlib
import fcntl
import json
import os
import pathlib
import resource
from collections.abc import Callable, Iterator

from ml_collections import ConfigDict

from bsce_jax import config as config_lib
from bsce_jax.errors import UserError, using
from bsce_jax.files import is_url, write_json

DESCRIPTORS = 256  # that a process must be allowed; saving a checkpoint opens many files at once


class Claim:
    """The folder of a run, locked by this process.

    Args:
      folder: of the run.
      say: called with a line of text where the file system has no locks.

    Raises:
      UserError: another process has the lock.
    """

    def __init__(self, folder: pathlib.Path, say: Callable[[str], None]):
        self.folder = folder
        self._path = folder / ".lock"
        self._lock = open(self._path, "ab")  # noqa: SIM115  (closed in `release`)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise UserError(
                f"another process is training in {folder}: wait for it, or choose another --workdir"
            ) from None
        except OSError as error:
            say(f"{folder} cannot be locked ({error.strerror}): start no other run in it")

    def check(self) -> None:
        """Check that the lock is still there.

        Raises:
          UserError: it was removed, so that another process could use the folder.
        """
        held = os.fstat(self._lock.fileno())
        if self._path.exists() and os.path.samestat(held, os.stat(self._path)):
            return
        raise UserError(
            f"{self._path} was removed while this process was training: make sure that no other "
            "process trains there, and give the same command"
        )

    def release(self) -> None:
        """Unlock the folder."""
        self._lock.close()


@contextlib.contextmanager
def claimed(
    workdir: str | os.PathLike[str],
    config: ConfigDict,
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[Claim]:
    """Lock a folder for the run of a config: a new folder, or the one of this run.

    Args:
      workdir: the folder.
      config: of the run.
      say: called with a line of text where the file system has no locks.

    Raises:
      UserError: the folder has the run of another config, cannot be written, or is locked by
        another process.
    """
    folder = pathlib.Path(workdir)
    _check_descriptors()
    with using(folder):
        folder.mkdir(parents=True, exist_ok=True)
        claim = Claim(folder, say)
    try:
        with using(folder):
            refuse_another_config(folder, config)
        yield claim
    finally:
        claim.release()


def _check_descriptors() -> None:
    """Refuse a limit of open files at which saving a checkpoint would fail in the middle."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed < DESCRIPTORS:
        raise UserError(
            f"this process may open {allowed} files at a time: allow {DESCRIPTORS} (ulimit -n)"
        )


def check_path(workdir: str | os.PathLike[str]) -> pathlib.Path:
    """Refuse a folder whose path would cause silent errors.

    Raises:
      UserError: it has an invalid name or place.
    """
    text = os.fspath(workdir)
    if not text:
        raise UserError("--workdir is empty: give the folder of the run")
    if is_url(text):
        raise UserError(f"--workdir {text} is remote: only local folders and gs://BUCKET/RUN work")
    folder = pathlib.Path(workdir)
    absolute = os.path.abspath(folder)
    special = sorted(set(absolute) & set("[]*?"))
    if special:
        # orbax treats the path as a pattern, and finds no arrays
        raise UserError(f"--workdir {absolute} has a {special[0]} in it: choose another name")
    try:
        absolute.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"--workdir {absolute!r} is not UTF-8 here: set PYTHONUTF8=1, or choose another name"
        ) from None
    if folder.is_symlink() and not folder.exists():
        raise UserError(f"--workdir {folder} is a link to {os.readlink(folder)}, which is missing")
    return folder


def refuse_another_config(folder: pathlib.Path, config: ConfigDict) -> None:
    """Check that a folder has no run of another config.

    Raises:
      UserError: it has another one, or what it has is no config.
    """
    path = folder / "config.json"
    wanted = json.loads(config.to_json())
    if not path.exists():
        return
    try:
        there = json.loads(path.read_bytes())
        if not isinstance(there, dict):
            raise UserError(f"{path} is not a config: remove {folder} or choose another")
        both = config_lib.flat(there), config_lib.flat(wanted)
        differences = config_lib.differences(*both)
        # a file or a run may move, but is there or is not
        for name in ("model.init", "scenario.extends"):
            then, now = (of.get(name) or "" for of in both)
            if bool(then) != bool(now):
                differences.append(f"{name} is {then!r} there and {now!r} here")
    except (RecursionError, ValueError) as error:  # of JSON and of UTF-8
        raise UserError(f"{path} is not JSON: remove {folder} or choose another") from error
    if differences:
        raise UserError(
            f"{folder} holds a run of another config ({'; '.join(differences)}): "
            "choose another --workdir, or remove that one"
        )


def write_config(folder: pathlib.Path, config: ConfigDict) -> None:
    """Write the config of the run, unless it is there; fields that alter no result may differ."""
    path, wanted = folder / "config.json", json.loads(config.to_json())
    if not path.exists() or json.loads(path.read_bytes()) != wanted:
        write_json(path, wanted)
