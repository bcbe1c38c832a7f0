"""Files of any bytes: each reader says in one line what is wrong, or that nothing is there."""

import contextlib
import copy
import functools
import io
import json
import pathlib
import shutil
import zipfile
from collections.abc import Callable
from typing import Any

import common
import numpy as np
import pytest
import small
import tables
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_run import make_config, some_digits

from bsce_jax import loading
from bsce_jax.errors import UserError, in_one_line
from bsce_jax.report import published
from bsce_jax.report import tables as table
from bsce_jax.report.runs import read_all, scenarios
from bsce_jax.report.terminal import print_results
from bsce_jax.runs import model as model_files
from bsce_jax.runs import predictions, results, seal
from bsce_jax.runs.folder import claimed
from bsce_jax.runs.saved import SavedRun
from bsce_jax.training.loop import run

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


# --- good files of which some values are replaced

VALUES = JSON | st.sampled_from(
    [0, -1, 2, 10**20, 1e300, "a", [0], [[0]], [[0, 1], [1]], [1, 2, 3]]
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values inside a JSON value."""
    inner: Any = ()
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value[:3])
    found = [path] if path else []
    return found + [place for key, v in inner for place in places(v, (*path, key))]


@st.composite
def damaged(draw: st.DrawFn, good: Any) -> Any:
    """A JSON object of which some values are replaced, or missing."""
    changed = copy.deepcopy(good)
    for *path, last in draw(st.lists(st.sampled_from(places(good)), min_size=1, max_size=3)):
        # a copy, since a drawn list or dict may be drawn again, and put into itself
        inner, value = changed, copy.deepcopy(draw(VALUES))
        with contextlib.suppress(LookupError, TypeError):  # what it was in is replaced already
            for key in path:
                inner = inner[key]
            if isinstance(inner, dict) and draw(st.integers(0, 4)) == 0:
                del inner[last]
            else:
                inner[last] = value
    return changed


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    fields = {"train.epochs": 1, "model.name": "tiny_linear"}
    run(make_config("bic", None, fields), folder, some_digits(4, 2))
    return folder


@functools.cache
def contents(path: pathlib.Path) -> Any:
    """What is in a file of the finished run."""
    return json.loads(path.read_bytes())


def said_by(call: Callable[[], object]) -> str:
    """What a call says against a file; nothing if it takes it."""
    try:
        call()
    except UserError as error:
        said = in_one_line(str(error))
        assert len(said.splitlines()) == 1
        return said
    return ""


@fuzz
@given(data=st.data())
def test_values_of_a_config(data: st.DataObject, tmp_path: pathlib.Path) -> None:
    good = json.loads(make_config("lucir").to_json())
    content = data.draw(damaged(good))
    path = tmp_path / "config.json"
    path.write_text(json.dumps(content))

    def claim() -> None:
        with claimed(tmp_path, make_config("lucir")):
            pass

    said_by(claim)
    path.write_text(json.dumps(content))
    said_by(lambda: loading.make_config(str(path), {}))


@fuzz
@given(data=st.data())
def test_values_of_results(
    data: st.DataObject, finished: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    content = data.draw(damaged(contents(finished / "results.json")))
    path = tmp_path / "results.json"
    path.write_text(json.dumps(content))
    value = results.read(tmp_path)
    if value is not None:
        print_results(value)

    def make_table() -> None:
        found = common.read([path])
        for kind in ("cnn", "nme"):
            for column in small.COLUMNS:
                small.figure(found, kind, column)
            for column in ("average_incremental", "last", "forgetting"):
                tables.figure(found, kind, column)

    said_by(make_table)


@fuzz
@given(data=st.data())
def test_values_of_a_run_that_is_reported(
    data: st.DataObject, finished: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    # without the model, which the test below is about
    shutil.copytree(finished / "predictions", tmp_path / "predictions", dirs_exist_ok=True)
    for name in ("config.json", "results.json"):
        good = contents(finished / name)
        content = data.draw(damaged(good) | st.just(good))
        (tmp_path / name).write_text(json.dumps(content))
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    lines = data.draw(damaged({"lines": lines})).get("lines")
    text = "\n".join(map(json.dumps, lines)) if isinstance(lines, list) else "x"
    (tmp_path / "metrics.jsonl").write_text(text)

    def make_tables() -> None:
        (scenario,) = scenarios(read_all([tmp_path])[0])
        for make in (table.summary, table.logit_gap, table.scale, table.training, table.classes):
            make(scenario.groups)
        for make in (table.forgetting, table.time, table.config, published.beside):
            make(scenario.groups)
        table.task_matrix(scenario.groups[0])
        if scenario.runs[0].outcome is not None:
            table.confusion(scenario.runs[0], by_task=False)

    said_by(make_tables)


@fuzz
@given(data=st.data())
def test_values_of_a_model(
    data: st.DataObject, finished: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    good = dict(contents(finished / "model" / "model.json"))
    good.pop("sha256")
    opened_with(data.draw(damaged(good)), finished, tmp_path)


def test_a_field_with_a_dot_in_its_name(finished: pathlib.Path, tmp_path: pathlib.Path) -> None:
    good = copy.deepcopy(contents(finished / "model" / "model.json"))
    good.pop("sha256")
    good["config"]["train"]["milestones"] = {"a.b": 1}
    assert "model.json: ConfigDict does not accept dots" in opened_with(good, finished, tmp_path)


def opened_with(content: dict[str, Any], finished: pathlib.Path, folder: pathlib.Path) -> str:
    """What is said of a model with another description, as if it had been written so."""
    content["sha256"] = model_files.digest(content)
    shutil.copytree(finished / "model", folder / "model", dirs_exist_ok=True)
    (folder / "model" / "model.json").write_text(json.dumps(content))
    return said_by(lambda: SavedRun.open(folder))


@pytest.mark.parametrize("damage", ["missing", "shape", "type", "more", "means", "all", "text"])
def test_weights_that_are_not_the_networks(
    damage: str, finished: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    shutil.copytree(finished / "model", tmp_path / "model")
    path = next((tmp_path / "model").glob("*.npz"))
    with np.load(path) as arrays:
        weights = {name: arrays[name] for name in arrays.files}
    bias = weights["params/head/bias"]
    changes: dict[str, dict[str, Any]] = {
        "shape": {"params/head/bias": bias[:-1]},
        "type": {"params/head/bias": bias.astype(np.float64)},
        "text": {"params/head/bias": bias.astype(str)},
        "more": {"params/more": bias},
        "means": {"class_means": weights["class_means"][:-1]},
    }
    weights |= changes.get(damage, {})
    if damage == "missing":
        del weights["params/head/bias"]
    np.savez(path, allow_pickle=False, **({} if damage == "all" else weights))
    assert f"{path.name} is damaged: " in said_by(lambda: SavedRun.open(tmp_path))


@pytest.mark.parametrize("damage", ["empty", "classes"])
def test_predictions_of_other_images(
    damage: str, finished: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "results.json").unlink()
    labels, cnn, nme = predictions.read(finished, 0)
    count = 0 if damage == "empty" else len(labels)
    predictions.write(tmp_path / "run", 0, labels[:count] + 7, cnn[:count], nme[:count])
    (tmp_path / "run" / "model" / "model.json").unlink()
    fields = {"train.epochs": 1, "model.name": "tiny_linear"}
    resumed = lambda: run(make_config("bic", None, fields), tmp_path / "run", some_digits(4, 2))
    assert "predictions is damaged" in said_by(resumed)


@fuzz
@given(content=ANY_BYTES)
def test_models(content: bytes, tmp_path: pathlib.Path) -> None:
    (tmp_path / "model").mkdir(exist_ok=True)
    (tmp_path / "model" / "model.json").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.json"):
        SavedRun.open(tmp_path)
