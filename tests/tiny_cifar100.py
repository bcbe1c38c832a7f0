"""A few made-up images in the format of the official CIFAR-100 files, which Python 2 pickled."""

import hashlib
import pathlib
import struct
import tarfile

import numpy as np
import pytest

from bsce_jax.data import cifar100

CLASS_NAMES = tuple(f"class {i}" for i in range(100))


def global_(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def body(value: object) -> bytes:
    """Encodes plain data and uint8 arrays as Python 2 with the numpy of its time did."""
    match value:
        case None:
            return b"N"
        case False:
            return b"\x89"
        case int():
            return b"J" + struct.pack("<i", value)
        case bytes():
            return b"T" + struct.pack("<i", len(value)) + value
        case list():
            return b"](" + b"".join(map(body, value)) + b"e"
        case tuple():
            return b"(" + b"".join(map(body, value)) + b"t"
        case dict():
            return b"}(" + b"".join(body(k) + body(v) for k, v in value.items()) + b"u"
        case np.ndarray():
            ndarray = b"(" + global_("numpy", "ndarray") + body((0,)) + body(b"b") + b"t"
            empty = global_("numpy.core.multiarray", "_reconstruct") + ndarray + b"R"
            dtype = global_("numpy", "dtype") + body((value.dtype.str[1:].encode(), 0, 1)) + b"R"
            dtype += body((3, b"|", None, None, None, -1, -1, 0)) + b"b"
            state = body(1) + body(value.shape) + dtype + body(False) + body(value.tobytes())
            return empty + b"(" + state + b"t" + b"b"
    raise TypeError(value)


def pickled(value: object) -> bytes:
    return b"\x80\x02" + body(value) + b"."


def write_file(path: pathlib.Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes one of the files and makes its md5 the right one."""
    path.write_bytes(content)
    monkeypatch.setitem(cifar100.MD5, path.name, hashlib.md5(content).hexdigest())


def write(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Writes the folder; returns what the files hold: planar images and fine labels."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for name, size in (("train", 12), ("test", 5)):
        arrays[name] = images = rng.integers(0, 256, (size, 3072), np.uint8)
        arrays[name + "_labels"] = labels = rng.integers(0, 100, size)
        record = {
            b"filenames": [b"%d.png" % i for i in range(size)],
            b"batch_label": b"batch 1 of 1",
            b"fine_labels": labels.tolist(),
            b"coarse_labels": [0] * size,
            b"data": images,
        }
        write_file(folder / name, pickled(record), monkeypatch)
    meta = {b"fine_label_names": [name.encode() for name in CLASS_NAMES]}
    write_file(folder / "meta", pickled(meta), monkeypatch)
    return arrays


def pack(folder: pathlib.Path, archive: pathlib.Path) -> pathlib.Path:
    """Packs the folder as the official archive is packed."""
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, cifar100.FOLDER)
    return archive
