"""The lock of a run's folder, and the config that the run was started with."""

import contextlib
import fcntl
import json
import os
import pathlib
from collections.abc import Iterator

from ml_collections import ConfigDict

from bsce_jax import config as config_lib
from bsce_jax.errors import UserError, is_no_space, no_space
from bsce_jax.files import write_json


@contextlib.contextmanager
def claimed(workdir: str | os.PathLike[str], config: ConfigDict) -> Iterator[pathlib.Path]:
    """Lock a folder for the run of a config: a new folder, or the one of this run.

    Raises:
      UserError: the folder has the run of another config, has an invalid name or place, cannot be
        written, or is locked by another process.
    """
    folder = _check_path(workdir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "ab")  # noqa: SIM115  (closed below)
    except OSError as error:
        raise _cannot_use(folder, error) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is training in {folder}: wait for it, or choose another --workdir"
            ) from None
        except OSError:
            pass  # some network file systems do not support locks
        _check_config(folder, config)
        yield folder


def _check_path(workdir: str | os.PathLike[str]) -> pathlib.Path:
    """Refuse a folder whose path would cause silent errors."""
    text = os.fspath(workdir)
    if not text:
        raise UserError("--workdir is empty: give the folder of the run")
    if "://" in text:
        raise UserError(f"--workdir {text} is remote: only local folders work")
    folder = pathlib.Path(workdir)
    absolute = os.path.abspath(folder)
    special = sorted(set(absolute) & set("[]*?"))
    if special:
        # orbax treats the path as a pattern, and finds no arrays
        raise UserError(f"--workdir {absolute} has a {special[0]} in it: choose another name")
    try:
        absolute.encode()
    except UnicodeEncodeError:
        raise UserError(f"--workdir {absolute!r} is not UTF-8: choose another name") from None
    return folder


def _check_config(folder: pathlib.Path, config: ConfigDict) -> None:
    """Check that the folder has no run of another config, and write the present config."""
    path = folder / "config.json"
    wanted = json.loads(config.to_json())
    try:
        if path.exists():
            there = json.loads(path.read_text())
            if not isinstance(there, dict):
                raise UserError(f"{path} is not a config: remove {folder} or choose another")
            differences = config_lib.differences(config_lib.flat(there), config_lib.flat(wanted))
            if differences:
                raise UserError(
                    f"{folder} holds a run of another config ({'; '.join(differences)}): "
                    "choose another --workdir, or remove that one"
                )
            if there == wanted:
                return
        write_json(path, wanted)
    except OSError as error:
        raise _cannot_use(folder, error) from error
    except (RecursionError, ValueError) as error:  # of JSON and of UTF-8
        raise UserError(f"{path} is not JSON: remove {folder} or choose another") from error


def _cannot_use(folder: pathlib.Path, error: OSError) -> UserError:
    if is_no_space(error):
        return no_space(folder)
    return UserError(f"cannot use --workdir {folder}: {error.strerror}")
