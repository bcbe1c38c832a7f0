"""Files are written whole, whoever else writes them."""

import os
import pathlib
import threading
from typing import IO

import pytest

from bsce_jax.files import write_atomically, write_json


def test_two_processes_may_write_one_file(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "summary.json"

    def write(f: IO[bytes]) -> None:
        f.write(b"one ")
        monkeypatch.setattr(os, "getpid", lambda: 7)
        write_atomically(path, lambda f: f.write(b"of another process"))
        f.write(b"of this process")

    write_atomically(path, write)
    assert path.read_bytes() == b"one of this process"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_file_as_it_was(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "results.json"
    write_json(path, {"last": 60.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"last": float("nan")})
    with pytest.raises(ZeroDivisionError):
        write_atomically(path, lambda f: f.write(b"half") and 1 // 0)
    assert path.read_text() == '{\n"last": 60.0\n}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_regular_file_stays_so(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(path.read_bytes()))
    reader.start()
    write_json(path, {"last": 60.0})
    reader.join()
    assert read == [b'{\n"last": 60.0\n}\n']
    assert path.is_fifo()
