"""Files of any bytes: each reader says in one line what is wrong, or that nothing is there."""

import io
import json
import pathlib
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_run import make_config

from bsce_jax.errors import UserError
from bsce_jax.runs import predictions, results, seal
from bsce_jax.runs.folder import claimed
from bsce_jax.runs.saved import SavedRun

fuzz = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
ANY_BYTES = st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode())


def archive(rng: np.random.Generator) -> bytes:
    """A good prediction file."""
    file = io.BytesIO()
    top5 = rng.integers(0, 9, (7, 5))
    np.savez_compressed(file, labels=rng.integers(0, 9, 7), cnn_top5=top5, nme_top5=top5)
    return file.getvalue()


GOOD = archive(np.random.default_rng(0))


@st.composite
def damaged_archives(draw: st.DrawFn) -> bytes:
    content = bytearray(GOOD)
    for _ in range(draw(st.integers(1, 4))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content[: draw(st.integers(0, len(content)))])


@st.composite
def other_archives(draw: st.DrawFn) -> bytes:
    """Archives that are whole, of arrays that do not belong there."""
    kinds = st.sampled_from(["f4", "i8", "U3", "?"])
    shapes = st.sampled_from([(7,), (7, 5), (7, 4), (), (0,), (0, 5)])
    file = io.BytesIO()
    names = draw(st.lists(st.sampled_from(["labels", "cnn_top5", "nme_top5", "x"]), unique=True))
    arrays = {name: np.zeros(draw(shapes), draw(kinds)) for name in names}
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


@fuzz
@given(content=ANY_BYTES | damaged_archives() | other_archives())
def test_predictions(content: bytes, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "predictions" / "task_00.npz"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    said = ""
    try:
        labels, cnn, nme = predictions.read(tmp_path, 0)
    except UserError as error:
        said = str(error)
    assert "task_00.npz is damaged" in said or cnn.shape == nme.shape == (len(labels), 5)


def test_a_good_file_is_read_and_a_pickle_is_not(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "predictions" / "task_00.npz"
    path.parent.mkdir()
    path.write_bytes(GOOD)
    assert predictions.read(tmp_path, 0)[1].shape == (7, 5)
    with zipfile.ZipFile(path, "w") as file:
        for name in ("labels", "cnn_top5", "nme_top5"):
            array = io.BytesIO()
            np.save(array, np.array([object()]), allow_pickle=True)
            file.writestr(f"{name}.npy", array.getvalue())
    with pytest.raises(UserError, match="damaged"):
        predictions.read(tmp_path, 0)


@fuzz
@given(content=ANY_BYTES)
def test_results(content: bytes, tmp_path: pathlib.Path) -> None:
    (tmp_path / "results.json").write_bytes(content)
    assert results.read(tmp_path) is None


@fuzz
@given(content=ANY_BYTES)
def test_config(content: bytes, tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError), claimed(tmp_path, make_config("replay")):
        pass
    assert (tmp_path / "config.json").read_bytes() == content


@fuzz
@given(content=ANY_BYTES)
def test_seals(content: bytes, tmp_path: pathlib.Path) -> None:
    (tmp_path / "1").mkdir(exist_ok=True)
    (tmp_path / "1" / "file").write_bytes(b"x")
    (tmp_path / "1.sealed").write_bytes(content)
    assert seal.mismatch(tmp_path, "1") is not None


@fuzz
@given(content=ANY_BYTES)
def test_models(content: bytes, tmp_path: pathlib.Path) -> None:
    (tmp_path / "model").mkdir(exist_ok=True)
    (tmp_path / "model" / "model.json").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.json"):
        SavedRun.open(tmp_path)
