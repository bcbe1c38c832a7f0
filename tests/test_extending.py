"""Every example of docs/extending.md works as it stands."""

import json
import pathlib
import re
import sys
from typing import Any
from unittest.mock import MagicMock

import pytest

from bsce_jax import export, train
from bsce_jax.errors import UserError
from bsce_jax.methods import METHODS
from bsce_jax.training.loop import run

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text()
EXAMPLES = dict(re.findall(r"^`(\w+)\.py`:\n\n```python\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE))


def train_example(name: str, folder: pathlib.Path, *fields: str, to: str = "run") -> dict[str, Any]:
    file = folder / f"{name}.py"
    file.write_text(EXAMPLES[name])
    argv = [f"--config={file}", f"--workdir={folder / to}", "--config.train.epochs=1", *fields]
    return run(*train.parse(argv))


@pytest.fixture
def trackers(monkeypatch: pytest.MonkeyPatch) -> dict[str, MagicMock]:
    """Stands in for the packages that the callbacks send to."""
    made = {name: MagicMock() for name in ("wandb", "mlflow")}
    made["mlflow"].start_run.return_value.info.run_id = "7"
    for name, module in made.items():
        monkeypatch.setitem(sys.modules, name, module)
    return made


def check(name: str, folder: pathlib.Path, results: dict[str, Any]) -> None:
    """The run of an example is one with what the example defines."""
    assert results["cnn"]["last"] > 5
    config = json.loads((folder / "config.json").read_text())
    assert name in (
        *[config[part]["name"] for part in ("method", "loss", "model", "dataset")],
        config["runtime"]["feed"],
        f"with_{config['runtime']['callback']}",
        "recipe",
    )


@pytest.mark.parametrize("name", sorted(EXAMPLES.keys() - {"sent", "with_wandb", "with_mlflow"}))
def test_an_example_runs(name: str, tmp_path: pathlib.Path) -> None:
    check(name, tmp_path / "run", train_example(name, tmp_path))
    logged = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert ('"anchor":' in logged) == (name == "anchor")


def test_every_block_of_python_is_an_example() -> None:
    assert PAGE.count("```python") == len(EXAMPLES) == 8


def test_the_method_is_short() -> None:
    assert len([line for line in EXAMPLES["anchor"].splitlines() if line.strip()]) <= 30


def test_a_run_opens_where_the_file_of_its_method_is_imported(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as context:  # registered for the training only
        for name in ("_things", "_places"):
            context.setattr(METHODS, name, dict(getattr(METHODS, name)))
        train_example("anchor", tmp_path)
    place, file = tmp_path / "run", tmp_path / "anchor.py"
    arguments = [f"--workdir={place}", f"--out={tmp_path / 'model'}"]
    with pytest.raises(UserError, match=r"unknown method.name 'anchor'"):
        export.main(arguments)
    with pytest.raises(UserError, match=r"no file nowhere.py to import"):
        export.main(["--import=nowhere.py", *arguments])
    export.main([f"--import={file}", *arguments])
    assert (tmp_path / "model" / "load.py").exists()
    stored = ["--import", str(file), "--config", str(place / "config.json")]
    config, _ = train.parse([*stored, "--workdir", str(place)])  # registered twice by now
    assert config.method.name == "anchor"
    with pytest.raises(SystemExit):
        train.parse([*stored, "--help"])
    assert "method.weight=" in capsys.readouterr().out


def test_the_feed_trains_bit_for_bit_as_the_resident_one(tmp_path: pathlib.Path) -> None:
    check("sent", tmp_path / "sent", train_example("sent", tmp_path, to="sent"))
    train_example("sent", tmp_path, "--config.runtime.feed=resident", to="resident")
    sent, resident = ((tmp_path / f / "metrics.jsonl").read_text() for f in ("sent", "resident"))
    assert sent == resident


def test_the_trackers_get_what_is_logged(
    trackers: dict[str, MagicMock], tmp_path: pathlib.Path
) -> None:
    for name in trackers:
        example = f"with_{name}"
        check(example, tmp_path / name, train_example(example, tmp_path, to=name))
    logged = [
        json.loads(x) for x in (tmp_path / "wandb" / "metrics.jsonl").read_text().splitlines()
    ]
    assert len(logged) > 5
    sent = trackers["wandb"].init.return_value.log.call_args_list
    assert [(call.args[0], call.kwargs["step"]) for call in sent] == [
        (r, r["step"]) for r in logged
    ]
    sent = trackers["mlflow"].log_metrics.call_args_list
    assert [call.args[0] for call in sent] == [
        {name: v for name, v in r.items() if isinstance(v, int | float)} for r in logged
    ]
    (params,) = trackers["mlflow"].log_params.call_args.args
    assert params["runtime.callback"] == "mlflow"
    assert (tmp_path / "mlflow" / "mlflow_run").read_text() == "7"
