"""Atomic writes, of which a reader finds no part; damaged files; files that others forget."""

import contextlib
import json
import os
import pathlib
import platform
import re
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

# what reading an archive of any bytes can raise
MALFORMED = (
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    OverflowError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


def is_url(path: str | os.PathLike[str]) -> bool:
    """Tell whether a path is a URL, also with the single / that pathlib leaves of two."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", os.fspath(path)) is not None


def write_atomically(path: str | os.PathLike[str], write: Callable[[IO[bytes]], object]) -> None:
    """Write a file under a temporary name, and rename it when it is complete.

    Several processes may write the same file: the last one's stays. What is no regular file, such
    as /dev/null or a pipe, is written to, and so is /dev/stdout. Of a link the target is replaced.
    """
    path = pathlib.Path(path)
    if path.is_symlink() and not os.readlink(path).startswith("/proc/"):
        path = pathlib.Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or (path.exists() and not path.is_file()):
        with open(path, "wb") as f:
            write(f)
        return
    # the process may be on another machine, with the same number
    partial = path.with_name(f"{path.name}.{platform.node()}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as f:
            write(f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: str | os.PathLike[str], value: Mapping[str, Any]) -> None:
    """Write a JSON object, one line for each key; refuse NaN and infinities."""
    lines = [f"{json.dumps(key)}: {json.dumps(v, allow_nan=False)}" for key, v in value.items()]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    write_atomically(path, lambda f: f.write(text.encode()))


@contextlib.contextmanager
def temporary_files_removed() -> Iterator[None]:
    """Remove what code that is called inside makes in the temporary folder and leaves there."""
    with tempfile.TemporaryDirectory() as folder:
        before, tempfile.tempdir = tempfile.tempdir, folder
        try:
            yield
        finally:
            tempfile.tempdir = before
