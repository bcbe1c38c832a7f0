"""Every example of docs/extending.md works as it stands."""

import json
import pathlib
import re
from typing import Any

import pytest

from bsce_jax import train
from bsce_jax.training.loop import run

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text()
EXAMPLES = dict(re.findall(r"^`(\w+)\.py`:\n\n```python\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE))


def train_example(name: str, folder: pathlib.Path, *fields: str, to: str = "run") -> dict[str, Any]:
    file = folder / f"{name}.py"
    file.write_text(EXAMPLES[name])
    argv = [f"--config={file}", f"--workdir={folder / to}", "--config.train.epochs=1", *fields]
    return run(*train.parse(argv))


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name: str, tmp_path: pathlib.Path) -> None:
    results = train_example(name, tmp_path)
    assert results["cnn"]["last"] > 5
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert name in (
        *[config[part]["name"] for part in ("method", "loss", "model", "dataset")],
        config["runtime"]["feed"],
        "recipe",
    )


def test_every_block_of_python_is_an_example() -> None:
    assert PAGE.count("```python") == len(EXAMPLES) == 6


def test_the_method_is_short_and_its_term_is_logged(tmp_path: pathlib.Path) -> None:
    assert len([line for line in EXAMPLES["anchor"].splitlines() if line.strip()]) <= 30
    train_example("anchor", tmp_path)
    assert '"anchor":' in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_the_feed_trains_bit_for_bit_as_the_resident_one(tmp_path: pathlib.Path) -> None:
    for feed in ("sent", "resident"):
        train_example("sent", tmp_path, f"--config.runtime.feed={feed}", to=feed)
    sent, resident = ((tmp_path / f / "metrics.jsonl").read_text() for f in ("sent", "resident"))
    assert sent == resident
