"""Every method with both losses through the same loop: it finishes, resumes, and remembers."""

import functools
import json
import pathlib
import signal
import tempfile
from typing import Any

import pytest
from tiny_run import make_config, some_digits

from bsce_jax import train
from bsce_jax.errors import Stopped
from bsce_jax.methods import METHODS
from bsce_jax.runs.log import Log
from bsce_jax.training.loop import run

ROOT = pathlib.Path(__file__).resolve().parent.parent
LOSSES = ("cross_entropy", "balanced_softmax")


def train_digits(method: str, loss: str, folder: pathlib.Path) -> dict[str, Any]:
    argv = [
        f"--config={ROOT}/configs/digits.py:method={method},loss={loss},base=5,increment=5",
        f"--workdir={folder}",
        "--config.train.epochs=3",
        "--config.runtime.checkpoint_epochs=1",
    ]
    return run(*train.parse(argv))


def without_timing(results: dict[str, Any]) -> str:
    kept = results.keys() - {"timing", "peak_memory"}
    return json.dumps({key: results[key] for key in sorted(kept)})


_write = Log.write


def stop_in_the_second_task(log: Log, what: str, step: int, values: dict[str, Any]) -> None:
    """Writes the log's record, and lets a SIGTERM come at one of them."""
    _write(log, what, step, values)
    if what == "epoch" and (values["task"], values["epoch"]) == (1, 2):
        signal.raise_signal(signal.SIGTERM)


@functools.cache
def average_of_finetuning() -> float:
    with tempfile.TemporaryDirectory() as folder:
        results = train_digits("finetune", "cross_entropy", pathlib.Path(folder))
    average: float = results["cnn"]["average_incremental"]
    return average


# the parity tests and the harness of faults train these too
OFTEN_TRAINED = set(METHODS) - {"il_baseline"}


@pytest.mark.parametrize(
    "method",
    [pytest.param(m, marks=pytest.mark.slow) if m in OFTEN_TRAINED else m for m in METHODS],
)
def test_method(method: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for loss in LOSSES:  # one after the other: they share their compiled programs
        straight = train_digits(method, loss, tmp_path / loss / "straight")
        assert [len(task) for task in straight["tasks"]] == [5, 5]
        assert len(straight["cnn"]["accuracy"]) == 2

        kind = METHODS[method]
        best = max(s["average_incremental"] for s in (straight["cnn"], straight["nme"]) if s)
        if kind.memory or method == "joint":
            assert best > average_of_finetuning() + 5

        stopped = tmp_path / loss / "stopped"
        with monkeypatch.context() as patch:
            patch.setattr(Log, "write", stop_in_the_second_task)
            with pytest.raises(Stopped):
                train_digits(method, loss, stopped)
        resumed = train_digits(method, loss, stopped)
        assert without_timing(resumed) == without_timing(straight)


def test_the_joint_bound_is_above_all_and_finetuning_below(tmp_path: pathlib.Path) -> None:
    joint = train_digits("joint", "cross_entropy", tmp_path / "joint")
    replay = train_digits("replay", "balanced_softmax", tmp_path / "replay")
    averages = [r["cnn"]["average_incremental"] for r in (joint, replay)]
    assert averages[0] > averages[1] > average_of_finetuning()


def test_the_balanced_loss_says_what_the_skipped_finetuning_would_have_cost(
    tmp_path: pathlib.Path,
) -> None:
    digits, fields = some_digits(), {"train.epochs": 1}
    plain, balanced = (
        run(make_config("eeil", loss, fields), tmp_path / loss, digits)["timing"] for loss in LOSSES
    )
    assert plain["steps"] == balanced["steps"] + balanced["finetuning_saved"]["steps"]
    assert plain["finetuning_saved"]["steps"] == 0
    assert plain["head_steps"] == balanced["finetuning_saved"]["head_steps"] == 0
    # 30 epochs over 6 exemplars of 10 classes, in batches of 32
    assert balanced["finetuning_saved"]["steps"] == 30 * 2
