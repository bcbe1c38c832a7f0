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
    reader = threading.Thread(target=lambda: read.append(path.read_bytes()), daemon=True)
    reader.start()
    write_json(path, {"last": 60.0})
    reader.join(10)  # for ever, if another file took the place of the pipe
    assert read == [b'{\n"last": 60.0\n}\n']
    assert path.is_fifo()


def test_a_link_stays_one(tmp_path: pathlib.Path) -> None:
    link, target = tmp_path / "report.html", tmp_path / "there" / "x.html"
    link.symlink_to(target)
    for number in (1.0, 2.0):
        write_json(link, {"last": number})
        assert link.is_symlink()
        assert target.read_text() == f'{{\n"last": {number}\n}}\n'
        assert list(target.parent.iterdir()) == [target]


def test_the_link_to_a_descriptor_is_written_to(tmp_path: pathlib.Path) -> None:
    with (tmp_path / "out.csv").open("wb") as out:
        link = tmp_path / "stdout"
        link.symlink_to(f"/proc/self/fd/{out.fileno()}")  # as /dev/stdout is
        write_atomically(link, lambda f: f.write(b"cat,0.9"))
        assert link.is_symlink()
        assert os.fstat(out.fileno()).st_size == 7  # the open file itself, not one in its place
    assert (tmp_path / "out.csv").read_bytes() == b"cat,0.9"
