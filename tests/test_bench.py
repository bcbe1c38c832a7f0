"""The bench: what it counts by hand, and that its parts say what they are to say."""

import json
import math
import pathlib
import runpy
import signal
import threading

import pytest
import throughput
import versus

from bsce_jax import bench
from bsce_jax.errors import Stopped, UserError
from bsce_jax.models import make_model

ROOT = pathlib.Path(__file__).resolve().parent.parent
SMALL = (
    "--config.model.name=small",
    "--config.dataset.image_size=8",
    "--config.train.batch_size=8",
)


def test_costs_by_hand() -> None:
    # batch 2 at 8x8x3: 3x3 kernels to 8x8x32, then of stride 2 to 4x4x64; float32
    first, second = 2 * 8 * 8 * 32, 2 * 4 * 4 * 64
    forward = 2 * (first * 9 * 3 + second * 9 * 32)
    network = make_model("small", head="linear", num_classes=10, dtype="float32")
    costs = lambda **kind: throughput.costs(network, (2, 8, 8, 3), **kind)
    assert costs(trained=True, extra_forwards=0) == (3 * forward, 14 * 4 * (first + second))
    assert costs(trained=True, extra_forwards=1) == (4 * forward, 19 * 4 * (first + second))
    assert costs(trained=False, extra_forwards=1) == (2 * forward, 10 * 4 * (first + second))
    assert costs(trained=False, extra_forwards=0) == (forward, 5 * 4 * (first + second))


def test_the_parts(capsys: pytest.CaptureFixture[str]) -> None:
    bench.main(
        [
            *("--config", f"{ROOT}/configs/digits.py:base=80,increment=10"),
            *("--parts", "steps", "run", "--methods", "ss_il", "--seconds", "0"),
            *("--config.dataset.image_size=8", "--config.train.epochs=1"),
        ]
    )
    report = json.loads(capsys.readouterr().out)
    assert report["device"]["bytes_per_second"] > 0
    assert [(s["method"], s["later_task"]) for s in report["steps"]] == [
        ("ss_il", False),
        ("ss_il", True),
    ]
    assert [s["batch"] for s in report["steps"]] == [32, 32 + 32]
    for step in report["steps"]:
        per_second = 1000 * step["batch"] / step["milliseconds"]
        assert math.isclose(step["images_per_second"], per_second)
        assert step["of_matrix_rate"] > 0
        assert step["of_bandwidth"] > 0
    for one in report["run"]:
        assert one["steps"] > 0
        assert math.isclose(sum(one["seconds"].values()), one["whole"])
        assert one["seconds"].keys() >= {"train", "evaluate", "save", "compile"}


@pytest.mark.slow
def test_a_balanced_finetuning_is_a_row_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--config", f"{ROOT}/configs/digits.py:base=80,increment=10", "--seconds=0"]
    words += ["--parts", "steps", "--methods", "lucir", "--config.method.finetune_epochs=1"]
    bench.main([*words, *SMALL])
    report = json.loads(capsys.readouterr().out)
    stages = [(s["later_task"], s["stage"], s["head_only"]) for s in report["steps"]]
    assert stages == [
        (False, "training", False),
        (True, "training", False),
        (True, "balanced fine-tuning", True),
    ]
    # in forward passes: one and two backward; the teacher's too; one alone
    first, later, finetuning = (s["of_matrix_rate"] * s["milliseconds"] for s in report["steps"])
    assert math.isclose(later / first, 4 / 3)
    assert math.isclose(finetuning / first, 1 / 3)


def test_what_was_measured_before_a_stop_is_kept(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, run_path = signal.getsignal(signal.SIGTERM), runpy.run_path

    def measure(report: dict[str, object], *rest: object) -> None:
        report["steps"] = ["a row"]
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    def stopped_at(path: str) -> dict[str, object]:
        return {"measure": measure} if path.endswith("throughput.py") else run_path(path)

    monkeypatch.setattr(runpy, "run_path", stopped_at)
    with pytest.raises(Stopped, match="15"):
        bench.main(["--config", f"{ROOT}/configs/digits.py"])
    assert json.loads(capsys.readouterr().out)["steps"] == ["a row"]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--parts", "step"], "unknown part 'step'; did you mean steps"),
        (["--methods", "lucirr"], "unknown method 'lucirr'; did you mean lucir"),
        (["--config.train.epoch=2"], "did you mean epochs"),
        (["--config", f"{ROOT}/configs/digits.py:method=wa"], "say --methods instead"),
        (["--config.method.name=wa"], "say --methods instead"),
        (["--config", "digits:base=100", "--parts", "steps"], "leave classes for a later task"),
    ],
)
def test_bad_input(words: list[str], message: str) -> None:
    small = [*SMALL, "--seconds=0", "--methods", "finetune"]
    with pytest.raises(UserError, match=message):
        bench.main(["--config", f"{ROOT}/configs/digits.py", *small, *words])


def test_versus_asks_for_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    bench.main([*versus.OURS, "--seconds=0", *SMALL])
    steps = json.loads(capsys.readouterr().out)["steps"]
    assert [(s["method"], s["later_task"]) for s in steps] == [
        ("il_baseline", False),
        ("il_baseline", True),
    ]
    assert all(s["images_per_second"] > 0 for s in steps)


def test_versus_needs_a_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["versus", "--pairs=0"])
    with pytest.raises(UserError, match="--pairs is 0: at least 1"):
        versus.main()


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1"])
def test_seconds_that_never_pass_are_refused(seconds: str) -> None:
    with pytest.raises(UserError, match=r"--seconds is .*: it must be a number, at least 0"):
        bench.main(["--config=digits", "--parts=steps", f"--seconds={seconds}"])
