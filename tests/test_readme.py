"""README tells the truth where a test can know it."""

import pathlib
import re
from typing import Any

import numpy as np

from bsce_jax import train
from bsce_jax.report import catalogue
from bsce_jax.training.loop import run

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_the_tables_of_methods_and_losses_are_those_of_the_code() -> None:
    assert catalogue.markdown() in README, (
        "README is out of date: put in what `python -m bsce_jax.report.catalogue` prints"
    )


def test_the_example_computes_what_its_comment_says() -> None:
    match = re.search(r"```python\n((?:(?!```).)*?# \[([^\n]*)\])\n```", README, re.DOTALL)
    assert match is not None
    names: dict[str, Any] = {}
    exec(match.group(1), names)
    expected = [float(number) for number in match.group(2).split(",")]
    np.testing.assert_allclose(names["loss"], expected, atol=5e-4)


def test_the_files_it_names_exist() -> None:
    for page in (README, *((ROOT / "docs" / p).read_text() for p in ("architecture.md",))):
        named = re.findall(r"(?:configs|launch|benchmarks|docs|tests)/[\w/]+\.\w+", page)
        assert named
        assert [name for name in named if not (ROOT / name).exists()] == []


def test_a_trained_model_opens_as_it_says(tmp_path: pathlib.Path) -> None:
    match = re.search(r"```python\n(from bsce_jax.runs.saved.*?)```", README, re.DOTALL)
    assert match is not None
    argv = ["--config=digits:base=5,increment=5", f"--workdir={tmp_path}/runs/digits"]
    run(*train.parse([*argv, "--config.train.epochs=1"]))
    code = match.group(1).replace("runs/digits", f"{tmp_path}/runs/digits")
    names: dict[str, Any] = {"images": np.zeros((3, 8, 8, 1), np.uint8)}
    exec(code, names)
    assert names["scores"].shape == (3, 10)
    assert set(names["names"]) <= set("0123456789")
