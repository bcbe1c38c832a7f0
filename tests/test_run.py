"""The run over the tasks, on the embedded digits: what it writes, how it resumes."""

import gc
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import weakref
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from bsce_jax import train
from bsce_jax.errors import UserError
from bsce_jax.runs.folder import claimed
from bsce_jax.runs.log import Log
from bsce_jax.training.loop import run
from bsce_jax.training.problem import Problem
from bsce_jax.training.trainer import Trainer

ROOT = pathlib.Path(__file__).resolve().parent.parent


def digits(arguments: str = "", **fields: Any) -> ConfigDict:
    """The digits config, scaled down."""
    separator = ":" if arguments else ""
    argv = [f"--config={ROOT}/configs/digits.py{separator}{arguments}", "--workdir=unused"]
    config = train.parse(argv)[0]
    config.train.epochs = 2
    config.update_from_flattened_dict(fields)
    return config


def without_timing(results: dict[str, Any]) -> dict[str, Any]:
    return {key: results[key] for key in results.keys() - {"timing", "peak_memory"}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    run(digits(), folder)
    return folder


def test_the_work_directory_holds_what_other_programs_rely_on(finished: pathlib.Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    assert results["schema"] == 2
    assert results["seed"] == 0
    assert results["class_names"] == [str(digit) for digit in range(10)]
    assert results["method"] == "il_baseline"
    assert results["loss"] == "balanced_softmax"
    assert results["dataset"] == "digits"
    assert sorted(results["class_order"]) == list(range(10))
    assert [len(task) for task in results["tasks"]] == [2] * 5
    for kind in ("cnn", "nme"):
        summary = results[kind]
        assert [len(summary[c]) for c in ("accuracy", "top5", "old", "new")] == [5] * 4
        assert summary["last"] == summary["accuracy"][-1]
        assert np.shape(summary["matrix"]) == (5, 5)
        assert summary["matrix"][0][1:] == [None] * 4
        assert summary["old"][0] is None
    kept = results["memory"]["indices"]
    assert [[len(c) for c in task] for task in kept] == [[10] * 2 * (t + 1) for t in range(5)]
    assert results["environment"]["versions"]["jax"] == jax.__version__
    assert results["timing"]["steps"] > 0
    assert json.loads((finished / "config.json").read_text())["train"]["epochs"] == 2
    assert any((finished / "tensorboard").iterdir())
    assert any((finished / "checkpoints").iterdir())


def test_predictions_are_over_the_test_images_of_the_classes_seen(finished: pathlib.Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    for task in range(5):
        seen = results["class_order"][: 2 * (task + 1)]
        with np.load(finished / "predictions" / f"task_{task:02d}.npz") as saved:
            labels, top5 = saved["labels"], saved["cnn_top5"]
            assert saved["nme_top5"].shape == top5.shape == (len(labels), 5)
        assert set(labels) == set(seen)
        assert set(top5.ravel()) <= {*seen, -1}
        assert ((top5 == -1).sum(axis=1) == max(0, 5 - len(seen))).all()
        accuracy = 100 * np.mean(top5[:, 0] == labels)
        assert results["cnn"]["accuracy"][task] == pytest.approx(accuracy)


def test_the_log_has_a_line_for_each_epoch_and_each_task(finished: pathlib.Path) -> None:
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    epochs = [(r["task"], r["epoch"]) for r in lines if r["kind"] == "epoch"]
    assert epochs == [(task, epoch) for task in range(5) for epoch in (1, 2)]
    assert [r["task"] for r in lines if r["kind"] == "task"] == list(range(5))
    assert all(np.isfinite(r["loss"]) for r in lines if r["kind"] == "epoch")


def test_a_finished_run_is_not_done_again(finished: pathlib.Path) -> None:
    before = (finished / "results.json").read_bytes()
    log = (finished / "metrics.jsonl").read_bytes()
    results = run(digits(), finished)
    assert results["tasks"] == json.loads(before)["tasks"]
    assert (finished / "results.json").read_bytes() == before
    assert (finished / "metrics.jsonl").read_bytes() == log


@pytest.mark.parametrize("left", [None, '{"schema": 1, "meth'])
def test_results_that_were_lost_are_written_again(
    left: str | None, finished: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folder = shutil.copytree(finished, tmp_path / "copy")
    path = folder / "results.json"
    before = json.loads(path.read_text())
    path.unlink()
    if left is not None:
        path.write_text(left)
    assert without_timing(run(digits(), folder)) == without_timing(before)
    assert without_timing(json.loads(path.read_text())) == without_timing(before)


def test_predictions_that_were_lost_are_missed_at_once(
    finished: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folder = shutil.copytree(finished, tmp_path / "copy")
    (folder / "predictions" / "task_02.npz").unlink()
    assert len(run(digits(), folder)["tasks"]) == 5  # results.json is all that is asked for
    checkpoints = [path for path in (folder / "checkpoints").iterdir() if path.is_dir()]
    shutil.rmtree(max(checkpoints, key=lambda path: int(path.name)))
    log = (folder / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"task_02\.npz is missing"):
        run(digits(), folder)
    assert (folder / "metrics.jsonl").read_bytes() == log


def test_another_config_is_refused(finished: pathlib.Path) -> None:
    before = (finished / "config.json").read_bytes()
    with pytest.raises(UserError, match="seed is 0 there and 1 here"):
        run(digits(seed=1), finished)
    assert (finished / "config.json").read_bytes() == before


def test_a_folder_that_another_process_is_at_is_refused(finished: pathlib.Path) -> None:
    with (
        claimed(finished, digits()),
        pytest.raises(UserError, match="another process is training"),
    ):
        run(digits(), finished)
    assert run(digits(), finished)["method"] == "il_baseline"


def test_the_same_seed_gives_the_same_results(
    finished: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    again = run(digits(), tmp_path)
    assert without_timing(again) == without_timing(
        json.loads((finished / "results.json").read_text())
    )


@pytest.mark.slow
def test_killed_in_the_second_task_it_ends_as_if_nothing_had_happened(
    tmp_path: pathlib.Path,
) -> None:
    """SIGKILL: nothing gets a chance to tidy up."""
    fields = ["--config.train.epochs=12", "--config.runtime.checkpoint_epochs=1"]
    folder = tmp_path / "killed"
    command = [
        *(sys.executable, "-m", "bsce_jax.train", "--config=configs/digits.py:base=4"),
        *(f"--workdir={folder}", *fields),
    ]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    log = folder / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and '"task": 1, "stage": 0, "epoch": 3,' in log.read_text()):
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline, "never came to the second task"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    killed = log.read_text().splitlines()
    assert json.loads(killed[-1])["task"] == 1

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "resuming task 2/4" in done.stderr
    resumed = json.loads((folder / "results.json").read_text())

    config = digits("base=4", **{"train.epochs": 12, "runtime.checkpoint_epochs": 1})
    straight = run(config, tmp_path / "straight")
    assert without_timing(resumed) == without_timing(straight)
    for task in range(4):
        name = f"predictions/task_{task:02d}.npz"
        with np.load(folder / name) as a, np.load(tmp_path / "straight" / name) as b:
            for key in a.files:
                np.testing.assert_array_equal(a[key], b[key])
    lines = (tmp_path / "straight" / "metrics.jsonl").read_text()
    assert log.read_text() == lines


def test_the_log_forgets_what_comes_after_the_checkpoint(tmp_path: pathlib.Path) -> None:
    with Log(tmp_path, keep_bytes=0, step=0) as log:
        log.write("epoch", 1, {"loss": 2.0})
        kept = log.bytes
        log.write("epoch", 2, {"loss": 1.0})
    with Log(tmp_path, keep_bytes=kept, step=1) as log:
        assert log.bytes == kept, "a checkpoint before the next record must say the same"
        log.write("epoch", 2, {"loss": 1.5})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [2.0, 1.5]
    (tmp_path / "metrics.jsonl").unlink()
    with Log(tmp_path, keep_bytes=kept, step=1) as log:
        assert log.bytes == 0, "a log that somebody removed starts afresh"


def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path: pathlib.Path) -> None:
    command = [
        *(sys.executable, "-m", "bsce_jax.train", "--config=configs/digits.py:base=8"),
        *(f"--workdir={tmp_path}", "--config.train.epochs=60"),
    ]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and '"epoch": 5,' in log.read_text()):
        assert time.monotonic() < deadline, "never trained"
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in error
    assert "Traceback" not in error
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "resuming task 1/2" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "programs"),
    [("", 2), ("method=replay", 2), ("base=1,increment=3", 2), ("method=podnet", 3)],
)
def test_the_train_step_compiles_once_for_each_kind_of_stage(
    arguments: str, programs: int, tmp_path: pathlib.Path
) -> None:
    """In the first task, in later ones, and for the fine-tuning of the head alone."""
    trainers: list[Trainer] = []
    original = Trainer.__init__

    def remember(self: Trainer, *given: Any) -> None:
        original(self, *given)
        trainers.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "__init__", remember)
        results = run(digits(arguments), tmp_path)
    assert len(results["tasks"]) > 2
    assert trainers[0].compiled == programs


def test_a_second_run_compiles_nothing(tmp_path: pathlib.Path) -> None:
    """The command keeps its programs in the user's cache folder, and finds them there."""
    # as a user has it: without what conftest.py says to jax and XLA
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    environment["XDG_CACHE_HOME"] = str(tmp_path)
    kept = []
    for name in ("one", "two"):
        subprocess.run(
            [
                *(sys.executable, "-m", "bsce_jax.train", f"--workdir={tmp_path / name}"),
                *("--config=configs/digits.py:base=5,increment=5", "--config.train.epochs=1"),
            ],
            cwd=ROOT,
            env=environment,
            check=True,
            capture_output=True,
        )
        kept.append(sorted(path.name for path in tmp_path.glob("bsce_jax/xla/*-cache")))
    assert any(program.startswith("jit_chunk") for program in kept[0])
    assert kept[0] == kept[1]


def test_a_trainer_that_ended_holds_no_device_memory() -> None:
    """Many runs share a process in a study; Python's search for cycles may come too late."""
    gc.disable()
    try:
        trainer = Trainer(Problem(digits()))
        probe = trainer.probe(trainer.problem.network)
        probe.features(probe.initial, np.arange(4))
        ended = [weakref.ref(x) for x in (trainer, trainer.feed, probe)]
        del trainer, probe
        assert [ref() for ref in ended] == [None] * 3
    finally:
        gc.enable()


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_devices(
    finished: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """The same training on two devices: only the order of float additions differs."""
    folder = tmp_path / "two"
    subprocess.run(
        [
            *(sys.executable, "-m", "bsce_jax.train", "--config=configs/digits.py"),
            *(f"--workdir={folder}", "--config.train.epochs=2"),
        ],
        cwd=ROOT,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "2"},
        check=True,
        capture_output=True,
    )
    read = lambda path: [json.loads(x) for x in (path / "metrics.jsonl").read_text().splitlines()]
    one_log, two_log = read(finished), read(folder)
    first = [(a["loss"], b["loss"]) for a, b in zip(one_log, two_log, strict=True) if "loss" in a]
    ones, twos = zip(*first[:2], strict=True)
    np.testing.assert_allclose(ones, twos, rtol=1e-3)
    results = json.loads((folder / "results.json").read_text())
    assert len(results["environment"]["devices"]) == 2


def test_finetune_without_memory_has_no_nme(tmp_path: pathlib.Path) -> None:
    results = run(digits("method=finetune,loss=cross_entropy"), tmp_path)
    assert results["nme"] is None
    assert results["memory"]["size"] == 0
    # trained on the last two classes alone, it knows nothing else
    assert results["cnn"]["old"][-1] < 5 < results["cnn"]["new"][-1]


def test_a_diverging_run_stops_with_a_clear_line(tmp_path: pathlib.Path) -> None:
    config = digits("", **{"train.learning_rate": 1e12})
    with pytest.raises(UserError, match=r"not finite in task 1, epoch \d.*learning_rate"):
        run(config, tmp_path)


@pytest.mark.slow
def test_two_tasks_of_real_cifar100(cifar100_folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    argv = [
        f"--config={ROOT}/configs/cifar100.py:base=3,increment=3",
        f"--workdir={tmp_path}",
        f"--config.dataset.data_dir={cifar100_folder.parent}",
        "--config.scenario.class_order=68,56,78,8,23,84",
        "--config.model.name=resnet8",
        "--config.train.epochs=1",
        "--config.train.batch_size=64",
    ]
    results = run(*train.parse(argv))
    assert results["tasks"] == [[68, 56, 78], [8, 23, 84]]
    assert [len(c) for c in results["memory"]["indices"][1]] == [20] * 6
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [r["kind"] for r in lines] == ["epoch", "task", "epoch", "task"]
    assert results["cnn"]["accuracy"][0] > 40  # chance is 33


def test_a_run_on_arrays_needs_none_of_the_heavy_packages(tmp_path: pathlib.Path) -> None:
    """jax, flax, optax, orbax and ml_collections are enough to train."""
    heavy = ["array_record", "grain", "matplotlib", "PIL", "tensorboardX", "tensorflow"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({[*heavy, 'tensorflow_datasets']}))\n"
        "from bsce_jax.train import parse\n"
        "from bsce_jax.training.loop import run\n"
        "run(*parse(sys.argv[1:]))"
    )
    words = ["--config=configs/digits.py:base=5,increment=5", f"--workdir={tmp_path}/run"]
    command = [sys.executable, "-c", code, *words, "--config.train.epochs=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr  # a module that is None cannot be imported
    assert (tmp_path / "run" / "results.json").exists()
    assert not (tmp_path / "run" / "tensorboard").exists()
