"""Bad input: one clear line, exit code 2, nothing written."""

import json
import os
import pathlib
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from bsce_jax import __version__, config, prepare, train
from bsce_jax.errors import UserError, exit_on_user_error
from bsce_jax.loading import make_config

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
        ([], "say --config NAME"),
        ([DIGITS], "say --workdir DIR"),
        (["--config=configs/digit.py"], "no config file configs/digit.py"),
        (["--config=tests/tiny_cifar100.py"], "tiny_cifar100.py has no function get_config"),
        ([DIGITS + ":methd=wa"], "unknown config argument 'methd'; did you mean method?"),
        ([DIGITS + ":wa"], "config argument 'wa' should read name=value"),
        ([DIGITS + ":base=two"], "config argument base is 'two': it must be a whole number"),
        ([DIGITS + ":method=finetun"], "unknown method 'finetun'; did you mean finetune"),
        ([DIGITS + ":loss=balanced_softmx"], "did you mean balanced_softmax"),
        ([DIGITS + ":base=3,increment=8"], "scenario.increment is 8: choose 1 to 7"),
        (
            [DIGITS, "--config.train.epoch=3"],
            "unknown field of config.train 'epoch'; did you mean epochs or later_epochs?",
        ),
        (
            [DIGITS, "--config.trian.epochs=3"],
            "unknown field of config 'trian'; did you mean train?",
        ),
        ([DIGITS, "--config.train.epochs=few"], "train.epochs is 'few': it must be a whole number"),
        ([DIGITS, "--config.train.epochs=-1"], "train.epochs is -1: it must be a whole number, at"),
        ([DIGITS, "--config.train.epochs=0"], "train.epochs is 0: only a backbone of model.init"),
        ([DIGITS, "--config.train.epochs"], "say --config.train.epochs=VALUE"),
        ([DIGITS, "--config.train.milestones=80,120"], "train.milestones is 80.0: it must be num"),
        ([DIGITS, "--config.train.milestones=0.6,0.4"], "each must be above the one before it"),
        ([DIGITS, "--config.train.augmentation=crop,flip"], "join its parts with +, as in crop+fl"),
        ([DIGITS, "--config.train.lr=0.1"], "did you mean learning_rate?"),
        ([DIGITS, "--config.epochs=3"], "did you mean train.epochs?"),
        ([DIGITS, "--config.method=wa"], "say --config.method.name=wa, or --config NAME:method=wa"),
        ([DIGITS, "--config.train=wa"], "set one of its fields, such as train.epochs"),
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
        ([DIGITS, f"--config.seed={2**63}"], "at most 4,294,967,295"),
        ([DIGITS, "--config.dataset.image_size=5"], "image_size"),
        (["--config=configs/cifar100.py", "--config.dataset.data_dir=nowhere"], "bsce_jax.prepare"),
        ([DIGITS, "--wrkdir=x"], "unknown flag '--wrkdir'; did you mean --workdir?"),
        ([DIGITS, "--zzz"], "unknown flag '--zzz'; see --help"),
        ([DIGITS, "--epochs", "3"], "say --config.train.epochs=3"),
        ([DIGITS, "--epoch=3"], "say --config.train.epochs=3"),
        ([DIGITS, "--batch-size=8"], "say --config.train.batch_size=8"),
        ([DIGITS, "--train.epochs=3"], "say --config.train.epochs=3"),
        ([DIGITS, "--method", "wa"], "say --config.method.name=wa"),
        ([DIGITS, "--lr"], "say --config.train.learning_rate=VALUE"),
        ([DIGITS, "--workdir"], "--workdir: expected one argument"),
        (["configs/digits.py"], "say --config configs/digits.py"),
        (["digits:method=wa"], "say --config digits:method=wa"),
        (["--config=digts"], "unknown config 'digts'; did you mean digits?"),
        (["--config=configs/digits"], "did you mean configs/digits.py?"),
        (["--config=elsewhere/digits.py"], "the package has one: say --config digits"),
        ([DIGITS, "digit"], "what is 'digit'? see --help"),
        ([DIGITS, "--seeds=0,x"], "--seeds is '0,x': give different numbers, such as 0,1,2"),
        ([DIGITS, "--seeds", "1,01"], "--seeds is '1,01': give different numbers"),
        ([DIGITS, "--seeds="], "--seeds is '': give different numbers"),
        ([DIGITS, "--seeds=1", "--config.seed=2"], "leave out --config.seed"),
        (["--extend=a", "--config.scenario.increment=1"], "say --config.scenario.tasks instead"),
        ([DIGITS, "--extend="], "--extend is empty"),
        ([DIGITS, "--extend=a", "--config.scenario.extends=b"], "leave out --config.scenario.ext"),
        ([DIGITS, "--config.scenario.tasks=3"], "scenario.tasks lists 1 class: list at least 2"),
        ([DIGITS, "--seeds=4294967296"], "seed is 4294967296: it must be a whole number, at"),
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
            if line.endswith(" jax\n"):
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
    assert process.returncode == -signal.SIGINT
    assert "Traceback" not in rest
    assert not (tmp_path / "run").exists()


def test_the_command_refuses_a_batch_that_the_devices_do_not_divide(tmp_path: pathlib.Path) -> None:
    workdir = tmp_path / "run"
    done = command(DIGITS, f"--workdir={workdir}", JAX_NUM_CPU_DEVICES="3")
    assert done.returncode == 2
    assert done.stderr == ("error: train.batch_size is 32: 3 devices need a multiple of 3\n")
    assert not workdir.exists()


def test_help_needs_no_config_and_names_the_fields_of_one() -> None:
    plain = command("--help")
    assert plain.returncode == 0
    assert "usage: python -m bsce_jax.train" in plain.stdout
    with_config = command("--config", "digits:method=lucir", "--help", "--config.train.epochs", "7")
    assert with_config.returncode == 0
    shown = " ".join(with_config.stdout.split())
    assert "Handwritten digits: 10 classes in 5 tasks of 2" in shown
    assert "as --config NAME:name=value,name=value method=il_baseline loss base=2" in shown
    assert "method.ranking=1.0 weight of the margin ranking loss: a number, at least 0" in shown
    assert "train.epochs=7 epochs of each task, 0 to keep the backbone of model.init: a" in shown
    assert "memory.policy=per_class what the size counts: one of per_class, total" in shown


def test_help_does_not_wait_for_jax() -> None:
    code = "import sys; from bsce_jax import train; train._read([]); print('jax' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True) == "False\n"


def test_output_that_nobody_reads_ends_the_command_quietly() -> None:
    words = [sys.executable, "-m", "bsce_jax.train", "--help-methods"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(words, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, timeout=120)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_the_name_of_a_config_is_enough_anywhere(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits.py").write_text("from bsce_jax import config\n" + OWN.format("c.seed = 7"))
    theirs = train.parse(["--config=digits:method=wa", "--workdir=x"])[0]
    assert (theirs.seed, theirs.method.name, theirs.train.batch_size) == (0, "wa", 32)
    assert train.parse(["--config=digits.py", "--workdir=x"])[0].seed == 7


OWN = """
from bsce_jax import config

def get_config(arg=""):
    c = config.default("wa", None)
    {}
    return c
"""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("c.train.epoch = 3", 'own.py:6: c.train.epoch = 3: Key "epoch" does not exist'),
        ("c.trian.epochs = 3", """own.py:6: c.trian.epochs = 3: 'trian' Did you mean "train\""""),
        ("c['loss']['tau'] = 3", 'Key "tau" does not exist'),
        ("c.train.epochs = 2.5", "own.py:6: c.train.epochs = 2.5: Could not override"),
        ("c.train.epochs = None", "own.py: train.epochs is None: it must be a whole number"),
        ("c.train.epochs = True", "own.py: train.epochs is True: it must be a whole number"),
        ("c.train.momentum = float('nan')", "own.py: train.momentum is nan"),
        ("c.train.milestones = (0.5, 0.5)", "each must be above the one before it"),
        ("c.method.name = 'lucir'", "own.py: unknown field of config.method"),
        ("c.unlock().train.epoch = 3", "unknown field of config.train 'epoch'; did you mean epoc"),
        ("del c.unlock().train['epochs']", "own.py: the config has no train.epochs"),
        ("c = {}", "own.py returns no ConfigDict"),
    ],
)
def test_a_slip_in_a_config_file_is_said_in_one_line(
    line: str, message: str, tmp_path: pathlib.Path
) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN.format(line))
    with pytest.raises(UserError) as error:
        train.parse([f"--config={file}", "--workdir=x"])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "error"),
    [("int('x')", ValueError), ("c.train.epochs += 'x'", TypeError), ("c.seed.x", AttributeError)],
)
def test_other_mistakes_in_a_config_file_keep_their_traceback(
    line: str, error: type[Exception], tmp_path: pathlib.Path
) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN.format(line))
    with pytest.raises(error):
        train.parse([f"--config={file}", "--workdir=x"])


def test_a_config_file_without_arguments_is_given_none(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN.format("").replace('arg=""', ""))
    assert train.parse([f"--config={file}", "--workdir=x"])[0].method.name == "wa"
    with pytest.raises(UserError, match="takes no arguments such as 'method=wa'"):
        train.parse([f"--config={file}:method=wa", "--workdir=x"])


def test_the_config_of_a_run_is_a_config(tmp_path: pathlib.Path) -> None:
    words = ["--config=digits:method=podnet", "--config.train.milestones=0.25,0.5", "--workdir=x"]
    asked = train.parse(words)[0]
    file = tmp_path / "config.json"
    file.write_text(asked.to_json())
    again = train.parse([f"--config={file}", "--config.seed=5", "--workdir=x"])[0]
    assert again.seed == 5
    with again.unlocked():
        again.seed = 0
    assert again.to_dict() == asked.to_dict()
    assert again.is_locked
    assert again.train.milestones == (0.25, 0.5)


def test_a_config_of_an_earlier_version_gets_the_defaults_of_new_fields(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sections = config.default("ss_il", None).to_dict()
    wanted = sections["train"].pop("replay_batch_size")
    assert wanted == 32  # a default of the method
    del sections["model"]["flip"]
    file = tmp_path / "config.json"
    file.write_text(json.dumps(sections))
    made = make_config(str(file), {})
    assert made.train.replay_batch_size == wanted
    assert made.model.flip is False
    assert capsys.readouterr().err.splitlines() == [
        f"{file} has no model.flip: taking the default",
        f"{file} has no train.replay_batch_size: taking the default",
    ]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c["train"].update(epochs="3"), "config.json: train.epochs is '3'"),
        (lambda c: c["train"].update(learning_rate=10**400), "train.learning_rate is inf"),
        (lambda c: c["train"].update(milestones=0.5), "joined by commas"),
        (lambda c: c["method"].update(name="los"), "unknown method 'los'"),
        (lambda c: c.pop("method"), "config.json: the config has no method.name"),
        (lambda c: c.update(train=3), "config.train is a section"),
    ],
)
def test_a_damaged_config_of_a_run_is_refused(
    damage: Callable[[dict[str, Any]], object], message: str, tmp_path: pathlib.Path
) -> None:
    sections = config.default("wa", None).to_dict()
    damage(sections)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(sections))
    with pytest.raises(UserError, match=message):
        train.parse([f"--config={file}", "--workdir=x"])


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_what_is_not_a_config_is_said_to_be_none(text: str, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"config\.json"):
        train.parse([f"--config={file}", "--workdir=x"])
    with pytest.raises(UserError, match="takes no arguments"):
        train.parse([f"--config={file}:method=wa", "--workdir=x"])


def test_a_config_may_be_checked_by_itself() -> None:
    made = config.default("bic", "nca")
    config.check(made)
    made.loss.margin = float("inf")
    with pytest.raises(UserError, match=r"loss\.margin is inf: it must be a number"):
        config.check(made)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--version"], 0, f"bsce_jax {__version__}"),
        ([], 0, "prepare   get a data set ready"),
        (["tran"], 2, "unknown command 'tran'; did you mean train?"),
        (["--config=digits"], 2, "say which command: train, prepare"),
        (["prepare", "digits"], 0, "nothing to prepare"),
        (["prepare", "digits", "--source"], 2, "--source: expected one argument"),
        (["train"], 2, "say --config NAME"),
    ],
)
def test_all_commands_under_one_name(
    words: list[str],
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["bsce-jax", *words])
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.delitem(sys.modules, "bsce_jax.__main__", raising=False)
    monkeypatch.delitem(sys.modules, "bsce_jax.train", raising=False)
    monkeypatch.delitem(sys.modules, "bsce_jax.prepare", raising=False)
    try:
        runpy.run_module("bsce_jax", run_name="__main__")
        ended: object = 0
    except SystemExit as end:
        ended = end.code
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended == code
    shown = capfd.readouterr()
    assert message in shown.out + shown.err


def test_a_command_without_a_config_knows_no_fields() -> None:
    with pytest.raises(UserError, match=r"unknown flag '--config\.train\.epochs'; see --help"):
        prepare.main(["digits", "--config.train.epochs=3"])


def test_a_config_file_that_ignores_the_method_or_the_loss_is_refused(
    tmp_path: pathlib.Path,
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from bsce_jax import config\n"
        "def get_config(arg=''):\n"
        "    return config.default('replay', 'cross_entropy')\n"
    )
    for words in (
        [f"--config={file}:method=wa"],
        [f"--config={file}", "--config.method.name=wa"],
        [f"--config={file}", "--config.method.name=replay", "--config.method.name=wa"],
    ):
        with pytest.raises(UserError, match=r"mine.py ignores the argument method=wa: its get_con"):
            train.parse([*words, "--workdir=unused"])
    with pytest.raises(UserError, match="ignores the argument loss=nca"):
        train.parse([f"--config={file}", "--config.loss.name=nca", "--workdir=unused"])
    train.parse([f"--config={file}", "--config.loss.name=cross_entropy", "--workdir=unused"])


def test_a_config_file_may_postpone_its_annotations(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "postponed.py"
    file.write_text(
        "from __future__ import annotations\n"
        "import dataclasses\n"
        "from typing import ClassVar\n"
        "from bsce_jax import config\n"
        "from bsce_jax.fields import field\n"
        "from bsce_jax.methods import METHODS, Method\n"
        "@METHODS.register('postponed')\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Postponed(Method):\n"
        "    teacher: ClassVar[bool] = True\n"
        "    weight: float = field(0.1, 'of a term')\n"
        "def get_config():\n"
        "    return config.default('postponed', None)\n"
    )
    for _ in range(2):
        parsed, _ = train.parse([f"--config={file}", "--config.method.weight=2", "--workdir=r"])
        assert parsed.method.weight == 2.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "cannot read"),
        ('{"method": {"name": ["wa"]}, "loss": {"name": "nca"}}', "the config has no method.name"),
    ],
)
def test_a_config_json_that_is_none_is_refused(
    text: str, message: str, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=message):
        train.parse([f"--config={tmp_path}/config.json", "--workdir=unused"])


def test_the_method_of_a_config_json_is_the_one_it_has(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "config.json"
    asked, _ = train.parse(["--config=digits:method=wa", "--workdir=x"])
    file.write_text(asked.to_json())
    same, _ = train.parse([f"--config={file}", "--config.method.name=wa", "--workdir=x"])
    assert same.to_dict() == asked.to_dict()
    with pytest.raises(UserError, match=r"has the method wa and its fields: take another config"):
        train.parse([f"--config={file}", "--config.method.name=bic", "--workdir=x"])
    with pytest.raises(UserError, match=r"is data and takes no arguments such as 'method=wa'"):
        train.parse([f"--config={file}:method=wa", "--workdir=x"])
