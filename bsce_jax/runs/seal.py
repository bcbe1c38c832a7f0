"""Seals: the checksums of a folder's files, written after all files are on disk.

checkpoints/12/...        the folder
checkpoints/12.sealed     a JSON object, file: SHA-256 and length
"""

import hashlib
import json
import os
import pathlib
import shutil

from bsce_jax.files import write_json


def write(folder: pathlib.Path, name: str) -> None:
    """Flush a folder to disk and write its seal.

    Args:
      folder: the parent of the folder to seal.
      name: of the folder to seal.
    """
    sums = {}
    for path in _files(folder / name):
        with open(path, "rb") as f:
            sums[_relative(path, folder / name)] = _sum(path)
            os.fsync(f.fileno())
    for path in [*(p for p in (folder / name).rglob("*") if p.is_dir()), folder / name, folder]:
        _sync_folder(path)
    write_json(_path(folder, name), sums)


def exists(folder: pathlib.Path, name: str) -> bool:
    """Tell whether a folder is sealed."""
    return _path(folder, name).exists()


def mismatch(folder: pathlib.Path, name: str) -> str | None:
    """Compare a folder with its seal.

    Returns:
      What is wrong, in words; None if nothing is.
    """
    try:
        sums = json.loads(_path(folder, name).read_bytes())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        return f"{_path(folder, name).name} cannot be read"
    if not isinstance(sums, dict):
        return f"{_path(folder, name).name} is not a seal"
    there = {_relative(path, folder / name): path for path in _files(folder / name)}
    for file in sorted(sums.keys() | there.keys()):
        if file not in there:
            return f"{file} is missing"
        if file not in sums:
            return f"{file} does not belong there"
        try:
            if _sum(there[file]) != sums[file]:
                return f"{file} is not as it was written"
        except OSError as error:
            return f"{file} cannot be read: {error.strerror}"
    return None


def remove(folder: pathlib.Path, name: str) -> None:
    """Remove a folder and its seal, the seal first."""
    _path(folder, name).unlink(missing_ok=True)
    shutil.rmtree(folder / name)


def tidy(folder: pathlib.Path) -> None:
    """Remove the seals of folders that are gone."""
    for path in folder.glob("*.sealed"):
        if not path.with_suffix("").exists():
            path.unlink()


def _path(folder: pathlib.Path, name: str) -> pathlib.Path:
    return folder / f"{name}.sealed"


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.rglob("*") if not path.is_dir())


def _relative(path: pathlib.Path, folder: pathlib.Path) -> str:
    return path.relative_to(folder).as_posix()


def _sum(path: pathlib.Path) -> list[str | int]:
    with open(path, "rb") as f:
        return [hashlib.file_digest(f, "sha256").hexdigest(), os.fstat(f.fileno()).st_size]


def _sync_folder(path: pathlib.Path) -> None:
    """Flush the entries of a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
