"""Bad input: one clear line, exit code 2, nothing written."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from bsce_jax import train
from bsce_jax.errors import exit_on_user_error

ROOT = pathlib.Path(__file__).resolve().parent.parent
DIGITS = "--config=configs/digits.py"


def command(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "bsce_jax.train", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say --config FILE.py"),
        ([DIGITS], "say --workdir DIR"),
        (["--config=configs/digit.py"], "no config file configs/digit.py"),
        (["--config=tests/tiny_cifar100.py"], "tiny_cifar100.py has no function get_config"),
        ([DIGITS + ":methd=wa"], "unknown config argument 'methd'; did you mean method?"),
        ([DIGITS + ":wa"], "config argument 'wa' should read name=value"),
        ([DIGITS + ":base=two"], "config argument base='two' is not of type int"),
        ([DIGITS + ":method=finetun"], "unknown method 'finetun'; did you mean finetune"),
        ([DIGITS + ":loss=balanced_softmx"], "did you mean balanced_softmax"),
        ([DIGITS + ":base=3,increment=8"], "scenario.increment is 8: choose 1 to 7"),
        (
            [DIGITS, "--config.train.epoch=3"],
            "unknown field of config.train 'epoch'; did you mean epochs?",
        ),
        (
            [DIGITS, "--config.trian.epochs=3"],
            "unknown field of config 'trian'; did you mean train?",
        ),
        ([DIGITS, "--config.train.epochs=few"], "--config.train.epochs=few"),
        ([DIGITS, "--config.train.epochs=0"], "train at least 1"),
        ([DIGITS, "--config.train.milestones=80,120"], "give fractions of the epochs"),
        ([DIGITS, "--config.train.learning_rate=nan"], "train.learning_rate is nan"),
        ([DIGITS, "--config.train.momentum=1"], "train.momentum is 1.0"),
        ([DIGITS, "--config.method.temperature=0"], "method.temperature is 0.0"),
        ([DIGITS + ":method=bic", "--config.method.validation=1"], "method.validation is 1.0"),
        ([DIGITS, "--config.method.name=finetun"], "did you mean finetune"),
        ([DIGITS, "--config.train.batch_size=0"], "train.batch_size is 0"),
        ([DIGITS, "--config.train.schedule=steps"], "did you mean step?"),
        ([DIGITS, "--config.train.augmentation=flop"], "did you mean"),
        ([DIGITS, "--config.dataset.name=digit"], "did you mean digits?"),
        ([DIGITS, "--config.model.name=resnet23"], "did you mean resnet32"),
        ([DIGITS, "--config.runtime.dtype=float8"], "float"),
        ([DIGITS, "--config.runtime.feed=residnt"], "did you mean resident?"),
        ([DIGITS, "--config.memory.policy=totl"], "did you mean total?"),
        ([DIGITS, "--config.memory.selection=herd"], "did you mean herding?"),
        ([DIGITS, "--config.memory.policy=total", "--config.memory.size=9"], "10"),
        ([DIGITS, "--config.method.weighting=sun"], "did you mean sum?"),
        ([DIGITS, "--config.scenario.class_order=1,1"], "class"),
        ([DIGITS + ":loss=nca"], "linear head"),
        ([DIGITS + ":method=ss_il", "--config.memory.size=0"], "train.replay_batch_size is 32"),
        ([DIGITS, "--config.seed=-1"], "seed is -1"),
        ([DIGITS, "--config.dataset.image_size=5"], "image_size"),
        (["--config=configs/cifar100.py", "--config.dataset.data_dir=nowhere"], "bsce_jax.prepare"),
        ([DIGITS, "--wrkdir=x"], "wrkdir"),
        ([DIGITS, "digits"], "what is 'digits'?"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    arguments: list[str],
    message: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    workdir = tmp_path / "run"
    if arguments and arguments != [DIGITS]:
        arguments = [*arguments, f"--workdir={workdir}"]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    with pytest.raises(SystemExit) as stop:
        exit_on_user_error(train.main)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("fields", "arguments"),
    [
        (["--config.method.name=wa"], ":method=wa"),
        (["--config.loss.name", "cross_entropy"], ":loss=cross_entropy"),
        (["--config.loss.name=nca", "--config.method.name=lucir"], ":method=lucir,loss=nca"),
    ],
)
def test_the_fields_of_a_method_or_loss_come_with_its_name(
    fields: list[str], arguments: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    by_field = train.parse([DIGITS, *fields, "--workdir=x"])[0]
    assert by_field.to_dict() == train.parse([DIGITS + arguments, "--workdir=x"])[0].to_dict()


def test_ctrl_c_ends_the_command_at_once_while_it_loads(tmp_path: pathlib.Path) -> None:
    """An exception would be lost in some of the libraries; see the end of train.py."""
    words = [sys.executable, "-X", "importtime", "-m", "bsce_jax.train", DIGITS]
    words.append(f"--workdir={tmp_path}/run")
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:  # modules as they are loaded
            if line.endswith(" absl\n"):
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
    assert process.returncode == -signal.SIGINT
    assert "Traceback" not in rest
    assert not (tmp_path / "run").exists()


def test_the_command_refuses_a_batch_that_the_devices_do_not_divide(tmp_path: pathlib.Path) -> None:
    workdir = tmp_path / "run"
    three = "--xla_force_host_platform_device_count=3"
    done = command(DIGITS, f"--workdir={workdir}", XLA_FLAGS=three)
    assert done.returncode == 2
    assert done.stderr == ("error: train.batch_size is 32: 3 devices need a multiple of 3\n")
    assert not workdir.exists()


def test_help_needs_no_config_and_names_the_fields_of_one() -> None:
    plain = command("--help")
    assert plain.returncode == 0
    assert "usage: python -m bsce_jax.train" in plain.stdout
    with_config = command(DIGITS + ":method=lucir", "--help")
    assert with_config.returncode == 0
    assert "less_forget: 5.0" in with_config.stdout
