"""The hook for each logged record, and the names in TensorBoard."""

import json
import pathlib
from typing import Any

import pytest
from ml_collections import ConfigDict
from tiny_run import interrupted, make_config, some_digits

from bsce_jax import hosts
from bsce_jax.callbacks import CALLBACKS, Callback
from bsce_jax.errors import UserError
from bsce_jax.runs.checkpoint import Progress
from bsce_jax.runs.log import Log
from bsce_jax.training import loop

DATA = some_digits(12, 2)
FIELDS = {"model.name": "tiny_linear", "train.epochs": 3, "runtime.checkpoint_epochs": 1}
CONFIG = make_config("replay", fields=FIELDS)


def logged(folder: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_callback_gets_the_records_of_the_log(tmp_path: pathlib.Path) -> None:
    got: list[dict[str, Any]] = []
    on_disk = []

    def note(record: dict[str, Any]) -> None:
        on_disk.append(logged(tmp_path)[-1] == record)
        got.append(dict(record))
        record.clear()  # it is the callback's own

    loop.run(CONFIG, tmp_path, DATA, note)
    assert got == logged(tmp_path)
    assert [r["kind"] for r in got] == 2 * ["epoch", "epoch", "epoch", "task"]
    assert all(on_disk)
    loop.run(CONFIG, tmp_path, DATA, note)
    assert len(got) == 8  # a finished run sends nothing


def test_the_config_names_the_callback(tmp_path: pathlib.Path) -> None:
    made: list[tuple[str, pathlib.Path]] = []
    got: list[dict[str, Any]] = []

    @CALLBACKS.register("noted")
    def make(config: ConfigDict, folder: pathlib.Path) -> Callback:
        made.append((config.runtime.callback, folder))
        return got.append

    config = make_config("replay", fields={**FIELDS, "runtime.callback": "noted"})
    loop.run(config, tmp_path, DATA)
    assert made == [("noted", tmp_path)]
    assert got == logged(tmp_path)
    config.runtime.callback = "notd"
    with pytest.raises(UserError, match=r"unknown runtime\.callback 'notd'; did you mean noted"):
        loop.run(config, tmp_path, DATA)


@pytest.mark.parametrize("kind", ["stopped", "killed"])
def test_an_interrupted_run_leaves_no_record_out(kind: str, tmp_path: pathlib.Path) -> None:
    """After a stop each record comes once; after a kill some come again, as they were."""
    got: list[dict[str, Any]] = []
    with interrupted(kind, task=1, epoch=2):
        loop.run(CONFIG, tmp_path, DATA, got.append)
    loop.run(CONFIG, tmp_path, DATA, got.append)
    records = logged(tmp_path)
    assert [r for i, r in enumerate(got) if r not in got[:i]] == records
    if kind == "stopped":
        assert got == records


def test_an_error_of_the_callback_ends_the_run_which_can_go_on(tmp_path: pathlib.Path) -> None:
    def fail(record: dict[str, Any]) -> None:
        if record["kind"] == "task":
            raise ConnectionError("the server is gone")

    with pytest.raises(ConnectionError, match="the server is gone"):
        loop.run(CONFIG, tmp_path, DATA, fail)
    got: list[dict[str, Any]] = []
    results = loop.run(CONFIG, tmp_path, DATA, got.append)
    assert len(results["cnn"]["accuracy"]) == 2
    assert [r["task"] for r in got if r["kind"] == "task"] == [0, 1]


def test_only_the_main_process_makes_a_callback(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "is_main", lambda: False)
    config = make_config("replay")
    config.runtime.callback = "failing"
    CALLBACKS.register("failing")(lambda *_: pytest.fail("a callback was made"))
    with loop._log(tmp_path, config, Progress(), None) as entries:
        assert entries is None
    assert not list(tmp_path.iterdir())


def test_tensorboard_names_explain_themselves(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    got: dict[str, float] = {}
    monkeypatch.setattr(
        "tensorboardX.SummaryWriter.add_scalar",
        lambda self, name, value, step: got.update({name: value}),
    )
    with Log(tmp_path, keep_bytes=0, step=0) as log:
        means = {"loss": 3.0, "classification": 1.0, "distillation": 2.0, "accuracy": 50.0}
        log.write("epoch", 9, {"task": 0, "stage": 0, "epoch": 1, **means, "scale": 4.0})
        log.write("task", 9, {"task": 0, "classes": 2, "cnn": 70.0, "nme": 80.0, "new_logit": 5.0})
        log.write("task", 9, {"task": 0, "evaluated_on": "validation", "cnn": 60.0})
    assert got == {
        "train/loss": 3.0,
        "train/loss_term/classification": 1.0,
        "train/loss_term/distillation": 2.0,
        "train/accuracy_percent": 50.0,
        "train/head_scale": 4.0,
        "test/cnn_accuracy_percent": 70.0,
        "test/nme_accuracy_percent": 80.0,
        "test/new_logit": 5.0,
        "validation/cnn_accuracy_percent": 60.0,
    }
