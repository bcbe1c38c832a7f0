"""Several seeds with one command: their folders, class orders, resuming, and the summary."""

import json
import pathlib
from typing import Any

import pytest
from ml_collections import ConfigDict
from tiny_run import interrupted

from bsce_jax import train
from bsce_jax.errors import UserError
from bsce_jax.files import write_json
from bsce_jax.report.terminal import print_summary
from bsce_jax.training import seeds
from bsce_jax.training.seeds import config_of, run_seeds, summarize

ROOT = pathlib.Path(__file__).resolve().parent.parent


def digits(*fields: str, arguments: str = "base=5,increment=5") -> ConfigDict:
    argv = [f"--config={ROOT}/configs/digits.py:{arguments}", "--workdir=x"]
    argv += ["--config.train.epochs=1", "--config.model.name=tiny_linear"]
    return train.parse([*argv, *fields])[0]


def write_results(
    folder: pathlib.Path, accuracies: list[float], nme: bool = True, **more: Any
) -> None:
    """Write made-up results of three tasks of two classes."""
    done = len(accuracies)
    figures = {"accuracy": accuracies, "old": [None, *accuracies[1:]], "new": [90.0] * done}
    figures |= {"average_incremental": sum(accuracies) / done, "last": accuracies[-1]}
    figures |= {"forgetting": 1.0 if done > 1 else None}
    value = {
        "schema": 2,
        "method": "replay",
        "loss": "cross_entropy",
        "dataset": "digits",
        "class_names": list("abcdef"),
        "tasks": [[0, 1], [2, 3], [4, 5]],
        "cnn": figures,
        "nme": figures if nme else None,
    }
    folder.mkdir(parents=True)
    write_json(folder / "results.json", value | more)


@pytest.fixture(autouse=True)
def command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the command from changing this process."""
    for name in ("hosts.initialize", "training.compiler.keep_programs"):
        monkeypatch.setattr(f"bsce_jax.{name}", lambda *_: None)
    monkeypatch.setattr(train, "_leave_errors_of_threads_to_the_run", lambda: None)


def test_the_summary_is_computed_by_hand(tmp_path: pathlib.Path) -> None:
    for seed, accuracies in ((10, [90.0, 80.0, 70.0]), (2, [96.0, 84.0, 60.0])):
        write_results(tmp_path / f"seed_{seed}", accuracies, nme=seed == 2)
    write_results(tmp_path / "seed_3", [99.0, 99.0])  # in its last task
    (tmp_path / "seed_x").mkdir()
    (tmp_path / "seed_04").mkdir()
    summary = summarize(tmp_path)
    assert summary["seeds"] == [2, 10]
    assert summary["unfinished"] == [3]
    assert summary["classes"] == [2, 4, 6]
    assert summary["nme"] is None
    cnn = summary["cnn"]
    assert cnn["last"] == {
        "mean": 65.0,
        "std": pytest.approx(50**0.5),  # of the sample: 5^2 + 5^2, over 2 - 1
        "values": [60.0, 70.0],
    }
    assert cnn["average_incremental"]["mean"] == 80.0
    assert cnn["average_incremental"]["std"] == 0.0
    assert cnn["forgetting"]["values"] == [1.0, 1.0]
    assert [one["mean"] for one in cnn["accuracy"]] == [93.0, 82.0, 65.0]
    assert cnn["old"][0] is None
    assert cnn["old"][2]["values"] == [60.0, 70.0]


def test_one_seed_has_no_deviation(tmp_path: pathlib.Path) -> None:
    write_results(tmp_path / "seed_0", [90.0, 80.0, 70.0])
    last = summarize(tmp_path)["nme"]["last"]
    assert last == {"mean": 70.0, "std": None, "values": [70.0]}


@pytest.mark.parametrize(
    "more", [{"class_names": list("abcdeg")}, {"tasks": [[0, 1, 2], [3, 4], [5]]}]
)
def test_seeds_of_different_data_are_not_averaged(
    more: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    write_results(tmp_path / "seed_0", [90.0, 80.0, 70.0])
    write_results(tmp_path / "seed_1", [90.0, 80.0, 70.0], **more)
    with pytest.raises(UserError, match="different data"):
        summarize(tmp_path)


@pytest.mark.parametrize(
    ("fields", "own_orders", "orders"),
    [
        ([], True, ["0", "7"]),
        (["--config.scenario.class_order=1993"], False, ["1993", "1993"]),
        (["--config.scenario.class_order=sorted"], True, ["sorted", "sorted"]),
        (["--config.scenario.class_order=3,1,2,0,5,4"], True, ["3,1,2,0,5,4"] * 2),
    ],
)
def test_class_orders(fields: list[str], own_orders: bool, orders: list[str]) -> None:
    made = [config_of(digits(*fields), seed, own_orders) for seed in (0, 7)]
    assert [c.seed for c in made] == [0, 7]
    assert [c.scenario.class_order for c in made] == orders


def test_seeds_are_trained_once_and_resumed(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs"
    with interrupted("stopped", task=1, epoch=1):
        run_seeds(digits(), folder, [1, 0])
    assert not (folder / "seed_0").exists()  # a stop ends all of them
    assert not (folder / "summary.json").exists()
    summary = run_seeds(digits(), folder, [1, 0])
    said = capsys.readouterr().err
    assert "1 of 2 seeds finished" in said
    assert "2 of 2 seeds finished" in said
    assert "resuming task 2/2" in said
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert summary["seeds"] == [0, 1]
    read = lambda n: json.loads((folder / f"seed_{n}" / "results.json").read_text())
    orders = [read(n)["class_order"] for n in (0, 1)]
    assert orders[0] != orders[1]
    assert summary["cnn"]["last"]["values"] == [read(n)["cnn"]["last"] for n in (0, 1)]
    logs = {path: path.read_bytes() for path in folder.glob("*/metrics.jsonl")}
    assert run_seeds(digits(), folder, [0]) == summary
    assert {path: path.read_bytes() for path in logs} == logs


def test_what_is_there_already_is_not_mixed_with_another_config(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[pathlib.Path] = []
    monkeypatch.setattr(seeds, "run", lambda config, folder: trained.append(folder))
    (tmp_path / "s" / "seed_4").mkdir(parents=True)
    there = json.loads(config_of(digits(), 4, own_orders=True).to_json())
    write_json(tmp_path / "s" / "seed_4" / "config.json", there)
    for config, own_orders, message in (
        (digits("--config.train.epochs=9"), True, "seed_4 .*train.epochs is 1 there and 9 here"),
        (digits(), False, "seed_4 .*scenario.class_order is '4' there and '1993' here"),
        (digits("--config.model.init=w.npz"), True, "model.init is '' there and 'w.npz' here"),
        (digits("--config.scenario.extends=r"), True, "scenario.extends is '' there and 'r' here"),
    ):
        with pytest.raises(UserError, match=message):
            run_seeds(config, tmp_path / "s", [0, 1], own_orders=own_orders)
    with pytest.raises(UserError, match="has runs of several seeds: say --seeds"):
        train.main(["--config=digits", f"--workdir={tmp_path / 's'}"])
    with pytest.raises(UserError, match="has the run of a single seed: choose another --workdir"):
        run_seeds(digits(), tmp_path / "s" / "seed_4", [0])
    assert not trained


@pytest.mark.parametrize(
    ("words", "own_orders"), [([], True), (["--config.scenario.class_order=5"], False)]
)
def test_the_command_prints_the_summary(
    words: list[str],
    own_orders: bool,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given: list[Any] = []

    def fake(config: ConfigDict, folder: str, numbers: list[int], own_orders: bool) -> Any:
        given.extend([config.scenario.class_order, folder, numbers, own_orders])
        write_results(tmp_path / "seed_0", [90.0, 80.0, 70.0])
        return summarize(tmp_path)

    write_results(tmp_path / "two_views" / "seed_0", [90.0, 80.0, 70.0], flip=True)
    print_summary(summarize(tmp_path / "two_views"))
    assert "┃ classes ┃ CNN+flip all ┃ NME+flip all ┃" in capsys.readouterr().out
    monkeypatch.setattr(seeds, "run_seeds", fake)
    train.main(["--config=digits", "--workdir=x", "--seeds=0, 2,11", *words])
    assert given == ["5" if words else "1993", "x", [0, 2, 11], own_orders]
    out = capsys.readouterr().out
    assert "mean ± standard deviation in % over the seeds 0\n" in out
    assert "│ average incremental accuracy │ 80.00 │ 80.00 │" in out
