"""`python -m bsce_jax.export`: what it writes predicts as the run does, without this package."""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny_run import make_config, some_digits

from bsce_jax import data
from bsce_jax.errors import UserError
from bsce_jax.export import PLATFORMS, main
from bsce_jax.runs.saved import Kind, SavedRun
from bsce_jax.training.loop import run

DATA = some_digits(12, 4)
IMAGES = data.all_images(DATA.test)
# corrected scores, a network with operations for each platform, and arrays for training alone
CASES: dict[str, tuple[str, str, Kind]] = {
    "bic": ("bic", "small", "cnn"),
    "il2m": ("il2m", "tiny", "cnn"),
    "ewc": ("ewc", "tiny_linear", "cnn"),
    "means": ("bic", "small", "nme"),
}
USE = """
import sys
sys.modules["bsce_jax"] = None  # importing it is an ImportError
import importlib.util
import numpy as np
images = np.load("images.npy")
for name in sys.argv[1:]:
    spec = importlib.util.spec_from_file_location("load", f"{name}/load.py")
    load = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(load)
    parts = [load.predict(images[:1]), load.predict(images[1:])]
    np.savez(f"{name}.npz", numbers=np.concatenate(parts), names=load.class_names)
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    found = {}
    for method, network, _ in CASES.values():
        if method not in found:
            found[method] = tmp_path_factory.mktemp(method)
            fields: dict[str, Any] = {"model.name": network, "train.epochs": 2}
            run(make_config(method, None, fields), found[method], DATA)
    return found


@pytest.fixture(scope="module")
def exported(
    runs: dict[str, pathlib.Path], tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """The folders of all cases, and what a process without this package gets from them."""
    place = tmp_path_factory.mktemp("exported")
    for name, (method, _, by) in CASES.items():
        main(["--workdir", str(runs[method]), "--out", str(place / name), "--by", by])
    np.save(place / "images.npy", IMAGES)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", USE, *CASES], cwd=place, env=environment, check=True)
    return place


@pytest.mark.parametrize("name", CASES)
def test_a_process_without_the_package_gets_the_numbers_of_the_run(
    runs: dict[str, pathlib.Path], exported: pathlib.Path, name: str
) -> None:
    method, _, by = CASES[name]
    saved = SavedRun.open(runs[method])
    expected = saved.predict(IMAGES, by)
    if by == "cnn":
        powers = np.exp(expected - expected.max(axis=1, keepdims=True))
        expected = powers / powers.sum(axis=1, keepdims=True)
    with np.load(exported / f"{name}.npz") as arrays:
        numbers, names = arrays["numbers"], arrays["names"]
    assert numbers.shape == (len(IMAGES), 10)
    np.testing.assert_allclose(numbers, expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(numbers.argmax(axis=1), expected.argmax(axis=1))
    assert names.tolist() == list(saved.class_names)
    labels = json.loads((exported / name / "labels.json").read_text())
    assert labels == {
        "class_names": list(saved.class_names),
        "numbers": "probability" if by == "cnn" else "cosine",
        "image_shape": [8, 8, 1],
        "fit": "whole_square",
    }


def test_the_program_is_for_all_platforms(exported: pathlib.Path) -> None:
    from jax import export

    program = export.deserialize(bytearray((exported / "bic" / "program.jax_export").read_bytes()))
    assert program.platforms == PLATFORMS == ("cpu", "cuda", "tpu")


def test_the_weights_are_those_that_the_program_uses(
    runs: dict[str, pathlib.Path], exported: pathlib.Path
) -> None:
    weights = load_file(exported / "ewc" / "weights.safetensors")
    saved = SavedRun.open(runs["ewc"]).weights
    assert any(name.startswith("extra/fisher") for name in saved)
    assert weights.keys() == {name for name in saved if name.startswith("params/")}
    for name, array in weights.items():
        np.testing.assert_array_equal(array, saved[name])
    assert "extra/alpha" in load_file(exported / "bic" / "weights.safetensors")
    assert "class_means" in load_file(exported / "means" / "weights.safetensors")


def test_a_folder_with_files_is_not_touched(
    runs: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    for name in ("out", "out/mine"):
        with pytest.raises(UserError, match="exists already: name a new folder"):
            main(["--workdir", str(runs["bic"]), "--out", str(tmp_path / name)])
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "mine"]


def test_nothing_is_left_of_a_failure(
    runs: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    out = str(tmp_path / "out")
    with pytest.raises(UserError, match="the run kept no exemplars"):
        main(["--workdir", str(runs["ewc"]), "--out", out, "--by", "nme"])
    with pytest.raises(UserError, match="no model in"):
        main(["--workdir", str(tmp_path), "--out", out])
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot use .*file: File exists"):
        main(["--workdir", str(runs["ewc"]), "--out", str(tmp_path / "file" / "out")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", _refuse)
        with pytest.raises(UserError, match=r"cannot use .*Permission denied"):
            main(["--workdir", str(runs["ewc"]), "--out", out])
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def _refuse(source: object, target: object) -> None:
    raise PermissionError(13, "Permission denied", str(target))
