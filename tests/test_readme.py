"""README tells the truth where a test can know it."""

import pathlib
import re
from typing import Any

import numpy as np

from bsce_jax.report import catalogue

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_the_tables_of_methods_and_losses_are_those_of_the_code() -> None:
    assert catalogue.markdown() in README, (
        "README is out of date: put in what `python -m bsce_jax.report.catalogue` prints"
    )


def test_the_example_computes_what_its_comment_says() -> None:
    match = re.search(r"```python\n(.*?# \[(.*?)\])\n```", README, re.DOTALL)
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
