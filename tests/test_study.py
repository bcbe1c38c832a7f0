"""The study: its runs are configs that exist, and its tables set like beside like."""

import json
import pathlib
import re
import sys
from typing import Any

import common
import pytest
import small
import study
import study_trials
import tables

from bsce_jax import config as config_lib
from bsce_jax.errors import UserError
from bsce_jax.methods import METHODS
from bsce_jax.runs.model import has_model
from bsce_jax.runs.saved import SavedRun
from bsce_jax.runs.start import of_first_task

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture
def trained(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Lets a run be parsed as the command line would be, and leave made-up figures."""
    configs: dict[str, Any] = {}

    def run(config: Any, folder: str) -> dict[str, Any]:
        configs[str(pathlib.Path(folder).relative_to(tmp_path / "runs"))] = config
        pathlib.Path(folder).mkdir(parents=True)
        (pathlib.Path(folder) / "results.json").touch()
        accuracy = 60.0 + config.seed
        figures: dict[str, Any] = {key: [accuracy] for key in ("accuracy", "old", "new")}
        figures |= dict.fromkeys(("average_incremental", "last", "forgetting"), accuracy)
        names = {"method": config.method.name, "loss": config.loss.name, "tasks": [[0, 1]]}
        return {**dict.fromkeys(common.KEPT), **names, "cnn": figures}

    monkeypatch.setattr(common, "run", run)
    monkeypatch.setattr(common, "ROOT", tmp_path)
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(common, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(study, "BASES", tmp_path / "bases")
    for name in ("configs", "benchmarks"):
        (tmp_path / name).symlink_to(ROOT / name)
    return configs


def test_every_run_is_a_config_that_exists(trained: dict[str, Any]) -> None:
    for protocol in study.PROTOCOLS:
        runs = [r for r in study.all_runs("published") if r.protocol == protocol and r.seed == 0]
        analytic = [r for r in runs if r.method in study.ANALYTIC]
        assert len(analytic) == (2 if protocol.base else 0)
        rest = len(runs) - len(analytic)
        assert rest == 2 * (len(study.METHODS) - len(study.ANALYTIC)) - 1  # icarl has one loss
        assert len({r.path for r in runs}) == len(runs)
        trained.clear()
        for run in runs:
            run.train({"train.epochs": 3})
        configs = {path: config for path, config in trained.items() if "first" not in path}
        for config in configs.values():
            assert config.scenario.base == protocol.base
            assert config.scenario.increment == protocol.increment
            assert config.memory.size in (0, protocol.size)
            assert config.train.epochs == 3
            assert config.scenario.class_order == "1993"
            assert config.train.finetuning == "auto"  # a balanced loss does without
        assert [path for path in configs if "icarl" in path] == [
            f"study/{protocol.name}/icarl-binary_cross_entropy-0"
        ]
        assert [config.memory.size for path, config in configs.items() if "acil" in path] == (
            [0] if protocol.base else []
        )


def test_first_tasks_are_shared(trained: dict[str, Any]) -> None:
    wanted = {"il_baseline", "lucir", "podnet", "icarl", "wa", "acil"}
    for run in study.all_runs("short"):
        if run.seed == 0 and run.protocol in study.PROTOCOLS[:2] and run.method in wanted:
            run.train({})
    names = ["il_baseline-cross_entropy", "lucir-cross_entropy", "podnet-nca"]
    names += ["podnet-cross_entropy", "icarl-binary_cross_entropy"]
    first = {path: c for path, c in trained.items() if path.startswith("study_short/first_50/")}
    assert list(first) == [f"study_short/first_50/{name}-0" for name in names]
    for config in first.values():
        assert len(config.scenario.class_order.split(",")) == config.scenario.increment == 50
        assert config.scenario.base == 0
        assert config.train.init_from == ""
        assert config.train.epochs == 30
    starts = {path: c.train.init_from for path, c in trained.items() if path not in first}
    like_baseline = ("il_baseline", "wa", "acil")
    for path, start in starts.items():
        name = pathlib.Path(path).name
        if name.startswith(like_baseline):
            assert start.endswith("/il_baseline-cross_entropy-0")
        elif name.startswith("podnet-balanced"):
            assert start.endswith("/podnet-cross_entropy-0")
    for file in common.RESULTS.rglob("*.json"):
        assert "init_from" not in file.read_text()


def test_a_first_task_that_is_kept_is_not_trained(trained: dict[str, Any]) -> None:
    kept = study.BASES / "study_short" / "first_50" / "il_baseline-cross_entropy-0"
    kept.mkdir(parents=True)
    runs = [study.Run(study.PROTOCOLS[0], "wa", "cross_entropy", seed, "short") for seed in (0, 1)]
    for run in runs:
        run.train({"dataset.data_dir": "data"})
    first, *others = trained.values()
    assert first.train.init_from == str(kept)
    assert [config.train.init_from == "" for config in others] == [True, False]
    # with a field of its own the first task is another one
    trained.clear()
    runs[0].first_task({"dataset.data_dir": "data", "runtime.dtype": "bfloat16"})
    assert list(trained) == [
        "study_short/first_50/il_baseline-cross_entropy-0-runtime.dtype=bfloat16"
    ]


def test_the_first_tasks_that_are_kept_are_those_of_the_study(trained: dict[str, Any]) -> None:
    places = (ROOT / "benchmarks" / "bases").rglob("model")
    kept = {place.parent: SavedRun.open(place.parent, task=0) for place in places}
    assert kept
    recipes = {folder: recipe for recipe, folder in study.RECIPES.items()}
    for folder, run in kept.items():
        method, loss, seed, *others = folder.name.split("-")
        recipe = recipes[folder.parent.parent.name]
        more = dict(other.split("=") for other in others)
        study.Run(study.PROTOCOLS[0], method, loss, int(seed), recipe).first_task(more)
        # one first task may go on from another: the last one trained is not always the wanted one
        wanted = trained[str(folder.relative_to(ROOT / "benchmarks" / "bases"))]
        both = (config_lib.flat(config.to_dict()) for config in (run.config, wanted))
        assert config_lib.differences(*both) == []
        assert has_model(folder)


def test_trials_are_runs_of_the_study_with_other_fields(trained: dict[str, Any]) -> None:
    for recipe, trials in study_trials.TRIALS.items():
        for trial in trials:
            trained.clear()
            trial.train(1, "data")
            *_, config = trained.values()
            for path, value in trial.fields.items():
                assert config.to_dict()[path.split(".")[0]][path.split(".")[1]] == value
            own = "-".join(f"{k}={v}" for k, v in sorted(of_first_task(trial.fields).items()))
            assert config.train.init_from.endswith("-cross_entropy-1" + ("-" + own) * bool(own))
            epochs = (config.train.epochs, config.train.later_epochs)
            assert epochs == {"reduced": (20, 0), "short": (30, 10)}[recipe]
            assert trial.path(1).exists()
        assert len(study_trials.table(recipe).splitlines()) == 2 + len(trials)
    firsts = {p.parent.name for p in common.RUNS.rglob("results.json")}
    names = ("il_baseline", "lucir", "podnet", "der")
    assert {name for name in firsts if "=" not in name} == {f"{n}-cross_entropy-1" for n in names}


def test_self_distillation_goes_on_from_the_first_task_without_it(trained: dict[str, Any]) -> None:
    more = {"train.self_distillation_epochs": 20, "dataset.data_dir": "data"}
    run = study.Run(study.PROTOCOLS[0], "afc", "balanced_softmax", 0, "short")
    folder = run.first_task(more)
    (plain, without), (distilled, config) = trained.items()
    assert plain == "study_short/first_50/podnet-cross_entropy-0"
    assert distilled == plain + "-train.self_distillation_epochs=20"
    assert without.train.init_from == ""
    assert without.train.self_distillation_epochs == 0
    assert config.train.init_from.endswith(plain)
    assert config.train.self_distillation_epochs == 20
    assert folder.as_posix().endswith(distilled)


def test_methods_are_compared_under_losses_that_differ() -> None:
    assert common.losses("il_baseline") == ("cross_entropy", "balanced_softmax")
    assert common.losses("podnet") == ("nca", "balanced_softmax")
    assert common.losses("ss_il") == ("separated_softmax", "balanced_softmax")
    assert common.losses("lwf_mc") == common.losses("icarl") == ("binary_cross_entropy",)
    assert common.losses("lwf") == ("separated_softmax",)
    assert common.losses("joint") == common.losses("fetril") == ("cross_entropy",)
    assert set(METHODS) >= common.INDIFFERENT.keys()


def test_the_small_table_shows_no_training_twice() -> None:
    for epochs in small.EPOCHS:
        lines = small.table(epochs).splitlines()[2:]
        rows = [line.split(" | ")[2:] for line in lines]
        assert rows
        assert all(row not in rows[:i] for i, row in enumerate(rows))
        for method in common.INDIFFERENT:
            assert sum(line.startswith(f"| `{method}` |") for line in lines) <= 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "podnt"], "unknown method 'podnt'; did you mean podnet"),
        (["--losses", "ncaa"], "unknown loss 'ncaa'; did you mean nca"),
        (["--seeds", "7"], "unknown seed '7'; valid: 0, 1, 2"),
        (["--table", "--seeds", "1"], "give it alone"),
    ],
)
def test_a_slip_in_the_small_study_is_named(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["small", *words])
    with pytest.raises(UserError, match=re.escape(message)):
        small.main()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "podnt"], "unknown method of the study 'podnt'; did you mean podnet"),
        (["--seeds", "9"], "unknown seed '9'; valid: 0, 1, 2"),
        (["--lst"], "unknown flag '--lst'; did you mean --list?"),
        (["--seeds", "x"], "invalid int value"),
        (["--config.runtime.dtype=bfloat16"], "leave out --config.runtime.dtype"),
    ],
)
def test_a_slip_is_not_taken_for_a_finished_study(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["study", "--list", *words])
    with pytest.raises(UserError, match=re.escape(message)):
        study.main()


def test_the_most_important_runs_come_first() -> None:
    first = list(study.all_runs("published"))[:18]
    assert {(r.protocol.base, r.protocol.increment) for r in first} == {(50, 10)}
    assert {r.method for r in first} == {"il_baseline", "lucir", "podnet"}
    assert {r.seed for r in first} == {0, 1, 2}


def test_a_finished_run_is_not_trained_again(trained: dict[str, Any]) -> None:
    run = next(study.all_runs("reduced"))
    run.train({})
    written = run.path.read_text()
    assert "data_dir" not in written
    kept = common.RUNS.rglob("*-0")  # the folder of the first task, not of the run
    assert [path.parent.name for path in kept] == ["first_50"]
    trained.clear()
    run.train({})
    assert not trained
    assert run.path.read_text() == written


def test_a_finished_run_with_other_fields_is_not_taken_for_this_one(
    trained: dict[str, Any],
) -> None:
    run = next(study.all_runs("reduced"))
    run.train({"train.momentum": 0.8, "dataset.data_dir": "here"})
    run.train({"train.momentum": "0.8", "dataset.data_dir": "there"})
    with pytest.raises(
        UserError, match=r"trained with train\.momentum=0\.8, not as the config has"
    ):
        run.train({})
    with pytest.raises(UserError, match=r"trained with train\.momentum=0\.8, not 0\.9"):
        run.train({"train.momentum": 0.9})


def test_the_study_goes_on_from_the_results_that_are_kept() -> None:
    """They have the fields that the study has now."""
    found = 0
    for recipe in study.RECIPES:
        for run in study.all_runs(recipe):
            common.check(run.path, run.fields())
            found += run.path.exists()
    assert found > 10


def test_tables_set_published_figures_beside_their_own_protocol(trained: dict[str, Any]) -> None:
    protocol = study.PROTOCOLS[0]
    for run in study.all_runs("published"):
        if run.protocol == protocol and run.method == "lucir" and run.seed < 2:
            run.train({})
    lines = str(tables.table(protocol, "published")).splitlines()
    assert lines[2].startswith("| `lucir` | `cross_entropy` | 2 | 60.50 ± 0.71 |")
    assert "64.01 / - (CNN, PODNet table 1); 63.42 / - (CNN, LUCIR (Hou et al. 2019))" in lines[2]
    assert lines[3].startswith("| `lucir` | `balanced_softmax` | 2 |")
    assert "PODNet" not in lines[3]
    assert tables.table(study.PROTOCOLS[1], "published") is None
    # 64.83 was trained with brightness, as configs/cifar100.py trains podnet
    assert tables.published(protocol)["podnet"] == ["64.83 / - (CNN, PODNet table 1)"]
    # another memory is another protocol; acil has none
    assert tables.published(protocol._replace(size=10)) == {
        "acil": ["66.30 / - (CNN, ACIL table 1)"]
    }


def test_the_gain_of_a_loss_needs_runs_with_it_and_without(trained: dict[str, Any]) -> None:
    protocol = study.PROTOCOLS[0]
    for seed, method, loss in (
        (0, "podnet", "nca"),
        (1, "podnet", "nca"),
        (1, "podnet", "balanced_softmax"),
        (0, "wa", "cross_entropy"),
    ):
        study.Run(protocol, method, loss, seed, "short").train({})
    first, _, *rows = tables.gains(protocol, "short").splitlines()
    assert first == "| method | published loss | average incremental | last | forgetting |"
    cells = "60.50 ± 0.71 → 61.00"
    assert rows == [f"| `podnet` | `nca` | {cells} | {cells} | {cells} |"]


def test_the_pages_have_the_tables_of_the_results(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = {name: getattr(tables, name) for name in ("PAGE", "README")}
    for name, page in pages.items():
        monkeypatch.setattr(tables, name, tmp_path / name)
        (tmp_path / name).write_text(page.read_text())
    monkeypatch.setattr(study_trials, "PAGE", tables.PAGE)
    for program, words in ((tables, []), (study_trials, ["--table"])):
        monkeypatch.setattr(sys, "argv", [program.__file__, *words])
        program.main()
    for name, page in pages.items():
        assert (tmp_path / name).read_text() == page.read_text()


def test_a_page_without_its_marks_is_not_touched(tmp_path: pathlib.Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- here -->\nold\n<!-- end here -->\nb\n")
    common.fill(page, "here", "new")
    assert page.read_text() == "a\n<!-- here -->\nnew\n<!-- end here -->\nb\n"
    with pytest.raises(ValueError, match="there"):
        common.fill(page, "there", "new")
    assert "new" in page.read_text()


def test_the_results_that_are_kept_can_be_read() -> None:
    for path in (ROOT / "benchmarks" / "results").rglob("*.json"):
        assert json.loads(path.read_text()).keys() >= {"method", "loss", "cnn"}


def test_a_typo_among_the_fields_is_named(trained: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="did you mean epochs"):
        next(study.all_runs("reduced")).train({"train.epoch": 1})
