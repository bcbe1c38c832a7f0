"""Reports on runs: the numbers by hand, the files of a paper, and the page in a real browser."""

import csv
import io
import json
import os
import pathlib
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, Page
from made_runs import make_run
from PIL import Image

from bsce_jax.errors import UserError
from bsce_jax.report import figures, published, tables
from bsce_jax.report.__main__ import main
from bsce_jax.report.runs import read, read_all, scenarios

# that HTML, JSON, CSV, LaTeX and Vega's expressions each could trip over
NAMES = ('</script><b>"x"', "it's", "a,b", "100 %_&", "back\\slash", *"5678", "naïve")


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """Two losses with two seeds each, of which one has another memory too; one is unfinished."""
    for seed, old in ((0, 0.8), (1, 0.6)):
        fields = {"seed": seed, "scenario.class_order": str(seed)}
        make_run(tmp_path / f"b{seed}", fields, old=old, class_names=NAMES)
        make_run(
            tmp_path / f"c{seed}", fields, loss="cross_entropy", old=old - 0.3, class_names=NAMES
        )
    make_run(tmp_path / "small", {"memory.size": 5}, class_names=NAMES)
    make_run(tmp_path / "u", finished=3, class_names=NAMES)
    return tmp_path


def read_folder(folder: pathlib.Path, *names: str) -> Any:
    runs, notes = read_all([folder / name for name in names])
    (scenario,) = scenarios(runs)
    return scenario, notes


def test_runs_that_differ_only_in_seeds_form_a_group(folder: pathlib.Path) -> None:
    scenario, notes = read_folder(folder, "b0", "c0", "b1", "small", "c1", "u", "b0")
    assert scenario.name == "digits: 5 tasks of 2 classes"
    assert [
        (group.name, [os.path.basename(run.folder) for run in group.runs])
        for group in scenario.groups
    ] == [
        ("il_baseline, balanced_softmax, memory size 20", ["b0", "b1"]),
        ("il_baseline, cross_entropy", ["c0", "c1"]),
        ("il_baseline, balanced_softmax, memory size 5", ["small"]),
        ("il_baseline, balanced_softmax (3 of 5 tasks)", ["u"]),
    ]
    assert len(notes) == 1
    assert notes[0].startswith("Left out, no usable model for the vectors of the head: ")
    differ = {row.pop("field"): list(row.values()) for row in tables.config(scenario.groups)}
    assert list(differ)[:2] == ["loss.name", "memory.size"]  # those that all have come first
    assert differ["loss.name"] == ["balanced_softmax", "cross_entropy", *["balanced_softmax"] * 2]
    assert differ["memory.size"] == ["20", "20", "5", "20"]
    assert differ["loss.tau"] == ["1.0", "-", "1.0", "1.0"]
    # else only the other fields of the balanced softmax
    assert {path.partition(".")[0] for path in list(differ)[2:]} == {"loss"}


def test_a_run_from_a_backbone_is_in_a_group_of_its_own(tmp_path: pathlib.Path) -> None:
    runs = [
        make_run(tmp_path / name, {"model.init": init})
        for name, init in (("a", ""), ("b", "weights.npz"), ("c", "weights.npz"))
    ]
    (scenario,) = scenarios(read_all(runs)[0])
    assert [len(group.runs) for group in scenario.groups] == [1, 2]
    assert [group.name.partition("model init")[2] for group in scenario.groups] == [
        *(" ", " weights.npz")
    ]


def test_an_extended_run_is_in_a_group_of_its_own(tmp_path: pathlib.Path) -> None:
    runs = [
        make_run(tmp_path / name, {"scenario.extends": earlier})
        for name, earlier in (("a", ""), ("b", "runs/x/seed_0"), ("c", "runs/x/seed_1"))
    ]
    (scenario,) = scenarios(read_all(runs)[0])
    assert [len(group.runs) for group in scenario.groups] == [1, 2]


def test_a_folder_of_runs(tmp_path: pathlib.Path) -> None:
    for seed in (10, 2, 0):
        make_run(tmp_path / "seeds" / f"seed_{seed}", {"seed": seed})
    runs, _ = read_all([tmp_path / "seeds", tmp_path / "seeds" / "seed_2"])
    assert [os.path.basename(run.folder) for run in runs] == ["seed_0", "seed_2", "seed_10"]
    assert len(scenarios(runs)[0].groups) == 1


def test_runs_on_other_tasks_are_another_scenario(tmp_path: pathlib.Path) -> None:
    made = [
        make_run(tmp_path / "a"),
        make_run(tmp_path / "b", sizes=(4, 3, 3)),
        make_run(tmp_path / "c", sizes=(4, 4, 2)),
        make_run(tmp_path / "d", dataset="cifar100"),
        make_run(tmp_path / "e"),
    ]
    results = json.loads((tmp_path / "e" / "results.json").read_text())
    (tmp_path / "e" / "results.json").write_text(
        json.dumps({**results, "evaluated_on": "validation"})
    )
    found = scenarios(read_all(made)[0])
    assert [scenario.name for scenario in found] == [
        "digits: 5 tasks of 2 classes",
        "digits: 4 classes, then 2 tasks of 3",
        "digits: tasks of 4, 4, 2 classes",
        "cifar100: 5 tasks of 2 classes",
        "digits (validation images): 5 tasks of 2 classes",
    ]


def test_means_and_deviations_over_the_runs_of_a_group(folder: pathlib.Path) -> None:
    scenario, _ = read_folder(folder, "b0", "b1")
    rows = tables.accuracy(scenario.groups)
    assert [row["classes"] for row in rows] == [2, 4, 6, 8, 10]
    # 8 classes are old, one is new, and the one that came last is always right
    last = [(8 * old + 0.9 + 1) * 10 for old in (0.8, 0.6)]
    assert rows[-1]["mean"] == pytest.approx(sum(last) / 2)
    assert rows[-1]["deviation"] == pytest.approx(abs(last[0] - last[1]) / 2**0.5)
    assert rows[-1]["low"] == pytest.approx(rows[-1]["mean"] - rows[-1]["deviation"])
    assert tables.accuracy(scenario.groups, "nme") == rows
    assert [row["mean"] for row in tables.old_classes(scenario.groups)] == pytest.approx([70] * 4)
    # the class that came last gets the wrong ones of its task, and its own
    new = tables.new_classes(scenario.groups)
    assert [row["mean"] for row in new] == pytest.approx([95.0] * 5)
    # a task falls from 95 to 80 or to 60, and stays there
    forgotten = [row["mean"] for row in tables.forgetting(scenario.groups)]
    assert forgotten == pytest.approx([(15 + 35) / 2] * 4)
    (row,) = tables.summary(scenario.groups)
    assert row["forgetting"] == "25.00 ± 14.14"
    assert row["minutes a run"] == "1.00 ± 0.00"
    long = {row["figure"]: row["mean"] for row in tables.figures(scenario.groups)}
    assert long["average incremental"] == pytest.approx(np.mean([row["mean"] for row in rows]))
    matrix = {
        (row["after"], row["of"]): row["mean"] for row in tables.task_matrix(scenario.groups[0])
    }
    assert len(matrix) == 15
    assert matrix[5, 5] == pytest.approx(95)
    assert matrix[5, 2] == pytest.approx(70)


def test_what_is_read_from_the_log(folder: pathlib.Path) -> None:
    with (folder / "b0" / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "epoch", "ta')  # as a run in progress leaves it
    scenario, _ = read_folder(folder, "b0")
    gaps = {row["task"]: row["mean"] for row in tables.logit_gap(scenario.groups)}
    assert gaps == {2: 3, 3: 4, 4: 5, 5: 6}
    scales = [row["mean"] for row in tables.scale(scenario.groups)]
    assert scales == pytest.approx([1.2, 2.2, 3.2, 4.2, 5.2])
    training = tables.training(scenario.groups)
    assert [(row["task"], row["epoch"]) for row in training][:3] == [(1, 1), (1, 2), (2, 3)]
    assert training[-1]["loss"] == pytest.approx(1 / 10)


def test_the_classes_of_the_newest_task(folder: pathlib.Path) -> None:
    found = read(folder / "c0")
    assert found is not None
    scenario, _ = read_folder(folder, "c0")
    rows = {row["class"]: row for row in tables.classes(scenario.groups)}
    assert list(rows) == list(found.class_names)
    *old, first, last = (rows[name] for name in found.class_names)
    assert {(row["age"], row["training_images"], row["accuracy"]) for row in old} == {
        ("old", 20, 50.0)
    }
    assert (first["age"], first["training_images"], first["accuracy"]) == ("new", 100, 90.0)
    assert last["accuracy"] == 100.0

    cells = tables.confusion(found, by_task=False)
    assert {row["true"] for row in cells} == set(NAMES)
    wrong = [row for row in cells if row["true"] != row["predicted"]]
    assert {row["predicted"] for row in wrong} == {found.class_names[-1]}
    assert sorted(row["percent"] for row in wrong) == [10.0] + [50.0] * 8
    by_task = {(r["true"], r["predicted"]): r["images"] for r in tables.confusion(found, True)}
    assert by_task["task 1", "task 5"] == by_task["task 1", "task 1"] == 10
    assert by_task["task 5", "task 5"] == 20


def test_published_figures_are_of_the_same_protocol(tmp_path: pathlib.Path) -> None:
    sizes = (50, 10, 10, 10, 10, 10)
    found = published.find("cifar100", sizes, "20/class", "resnet32_option_a")
    assert published.find("cifar100", sizes, "20/class", "resnet32") == found
    assert ("podnet", 64.83, "PODNet table 1") in [(f.method, f.average, f.source) for f in found]
    for other in (
        ("cifar100", sizes, "2000 total", "resnet32"),
        ("cifar100", (50, 5), "20/class", "resnet32"),
        ("imagenet_subset", sizes, "20/class", "resnet18"),
    ):
        assert "PODNet table 1" in {f.source for f in found}
        assert not {f for f in published.find(*other) if f in found}
    assert published.find("digits", (2, 2), "20/class", "small") == []
    assert published.find("cifar100", (50, 30, 20), "20/class", "resnet32") == []
    assert published.find("cifar100", (100,), "none", "resnet32") == []
    # a part of the classes is easier
    assert published.find("cifar100", [10] * 3, "2000 total", "resnet32") == []
    assert published.find("cifar100", (50, 10), "20/class", "resnet32") == []
    even = published.find("cifar100", [10] * 10, "2000 total", "resnet32")
    assert {f.method for f in even} >= {"wa", "icarl"}

    made = make_run(
        tmp_path / "a", {"model.name": "resnet32"}, dataset="cifar100", sizes=sizes, images=10
    )
    (scenario,) = scenarios(read_all([made])[0])
    rows = published.beside(scenario.groups)
    assert [row["source"] for row in rows if row["origin"] == "these runs"] == ["1 run"] * 2
    assert len(rows) == 2 + len(found)
    assert {row["source"] for row in rows} > {"PODNet table 1"}
    fields = {"model.name": "resnet32"}
    # with another memory the figures are others: each name says which
    in_total = {**fields, "memory.policy": "total", "memory.size": 2000}
    more = make_run(tmp_path / "t", in_total, dataset="cifar100", sizes=sizes, images=10)
    (scenario,) = scenarios(read_all([made, more])[0])
    names = {row["name"]: row["average"] for row in published.beside(scenario.groups)}
    assert names["icarl (NME), 20/class, resnet32"] == 58.08
    assert names["icarl (NME), 2000 total, resnet32"] == 61.39
    assert len([name for name in names if ", resnet32" in name]) == len(names)
    for run in (
        make_run(tmp_path / "u", fields, dataset="cifar100", sizes=sizes, finished=2),
        make_run(
            tmp_path / "s", {**fields, "dataset.image_size": 16}, dataset="cifar100", sizes=sizes
        ),
    ):
        (scenario,) = scenarios(read_all([run])[0])
        assert published.beside(scenario.groups) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say which runs"),
        (["nothing"], "no run in nothing: no config.json in it, nor in a folder in it"),
        (["begun"], "no finished task in begun: nothing to report"),
        (["done", "--format", "htm"], "unknown format 'htm'; did you mean html"),
        (["done", "--out", "begun"], "--out begun is a folder: name a file"),
        (["done", "--format", "csv", "--out", "done/config.json/x"], "cannot use done/config.json"),
        (["done", "--format", "svg", "--out", "done/config.json"], "is a file: name a folder"),
        (["foreign"], "cannot read foreign/config.json: it is no config of a run"),
        (["damaged"], "damaged/results.json is damaged"),
        (["changed"], "changed/results.json is damaged"),
    ],
)
def test_bad_input_is_said_in_one_line(
    arguments: list[str], message: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "begun", finished=0)
    for name in ("done", "damaged", "changed", "foreign"):
        make_run(tmp_path / name, finished=1)
    (tmp_path / "damaged" / "results.json").write_text('{"schema": 2')
    value = json.loads((tmp_path / "changed" / "results.json").read_text())
    value["cnn"]["matrix"] = [[1.0, 2.0]]
    (tmp_path / "changed" / "results.json").write_text(json.dumps(value))
    (tmp_path / "foreign" / "config.json").write_text('{"name": "x"}')
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=re.escape(message)):
        main(arguments)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_missing_package_is_said_in_one_line(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(UserError, match=r"needs vl_convert: pip install 'bsce_jax\[report\]'"):
        main([str(tmp_path)])


def test_files_for_a_paper(
    folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "c1" / "predictions" / "task_04.npz").write_bytes(b"")
    out = tmp_path / "out"
    names = [str(folder / name) for name in ("b0", "b1", "c1")]
    main([*names, "--format", "svg,csv,latex", "--out", str(out)])
    written = {path.name for path in out.iterdir()}
    output = capsys.readouterr()
    assert output.out == f"3 runs: {len(written)} files in {out}\n"
    assert "no usable predictions for the confusion and the classes: " in output.err
    charts = {name.removesuffix(".svg") for name in written if name.endswith(".svg")}
    assert charts >= {"accuracy", "forgetting", "tasks_1", "tasks_2", "confusion_1", "time"}
    assert "confusion_2" not in charts  # its predictions are lost
    for name in charts:
        root = ElementTree.parse(out / f"{name}.svg").getroot()
        assert len(list(root.iter("{http://www.w3.org/2000/svg}path"))) > 2, name
        assert f"{name}.csv" in written

    with open(out / "accuracy.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["classes"] for row in rows] == ["2", "4", "6", "8", "10"] * 2
    scenario, _ = read_folder(folder, "b0", "b1", "c1")
    expected = [row["mean"] for row in tables.accuracy(scenario.groups)]
    assert [float(row["mean"]) for row in rows] == expected
    latex = (out / "summary.tex").read_text()
    assert r"il\_baseline, balanced\_softmax & 2 & " in latex
    assert r" $\pm$ 14.14 & " in latex
    assert latex.count(r" \\") == 3


def test_pictures_and_pages_for_a_paper(
    folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = figures.make
    monkeypatch.setattr(figures, "make", lambda *args: make(*args)[:1])
    out = tmp_path / "out"
    main([str(folder / "b0"), "--format", "png,pdf", "--out", str(out)])
    picture = Image.open(io.BytesIO((out / "accuracy.png").read_bytes()))
    assert min(picture.size) > 600
    assert picture.convert("RGB").getpixel((2, 2)) == (255, 255, 255)
    assert (out / "accuracy.pdf").read_bytes().startswith(b"%PDF")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A page with two scenarios, several groups and names that could break it."""
    folder = tmp_path_factory.mktemp("page")
    for loss in ("balanced_softmax", "cross_entropy"):
        for seed in (0, 1):
            made = folder / f"{loss}-{seed}"
            make_run(made, {"seed": seed}, loss=loss, class_names=NAMES, old=0.5 + seed / 10)
    make_run(folder / "u<b>", {"model.name": "resnet32"}, finished=2, class_names=NAMES)
    make_run(
        folder / "p",
        {"model.name": "resnet32"},
        dataset="cifar100",
        sizes=(50, 10, 10, 10, 10, 10),
        images=2,
    )
    out = folder / "out.html"
    runs = [path for path in sorted(folder.iterdir()) if path.is_dir()]
    main([*map(str, runs), "--out", str(out)])
    return out


@pytest.fixture(params=[(1440, False), (360, True)], ids=["wide", "narrow_and_dark"])
def browser(request: pytest.FixtureRequest, page: pathlib.Path) -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    browser = Page(*request.param)
    browser.open(page, "document.documentElement.dataset.drawn")
    yield browser
    browser.close()


def test_the_page_in_a_browser(browser: Page, page: pathlib.Path) -> None:
    assert browser.complaints == []
    specs = re.search(r'id="specs">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)
    assert specs
    assert int(browser.run("document.documentElement.dataset.drawn")) == len(json.loads(specs[1]))
    marks = (
        "[...document.querySelectorAll('.plot')].map(p => p.querySelectorAll('svg path').length)"
    )
    counts = browser.run(marks)
    assert len(counts) > 25
    assert min(counts) > 2
    # wide things scroll by themselves, and no figure is cut off
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    inside = "(t, p) => { const a = t.getBoundingClientRect(), b = p.getBoundingClientRect();"
    inside += "return a.left >= b.left - 2 && a.right <= b.right + 2 && a.bottom <= b.bottom + 2; }"
    cut = f"p => [...p.querySelectorAll('svg, text')].filter(t => !({inside})(t, p))"
    found = "cut.map(t => t.closest('figure').id + ': ' + t.textContent.slice(0, 20))"
    assert (
        browser.run(f"cut = [...document.querySelectorAll('.plot')].flatMap({cut}); {found}") == []
    )
    # names are text
    assert browser.run("document.querySelectorAll('b').length") == 0
    assert browser.run("document.body.textContent.includes('</script><b>')")
    assert browser.run("document.body.textContent.includes('u<b>')")

    # the legend by keyboard: the second group goes, everywhere, and comes back
    lines = "document.querySelectorAll('#scenario1-accuracy .mark-line path').length"
    matrix = "document.querySelector('#scenario1-tasks_2').hidden"
    other = "document.querySelectorAll('#scenario2-accuracy .mark-line path').length"
    whole, others = browser.run(lines), browser.run(other)
    assert browser.run(matrix) is False
    button = "document.querySelectorAll('#scenario1 .legend button')[1]"
    browser.run(f"{button}.focus()")
    browser.press("Enter", "\r")
    browser.until(f"{lines} === {whole - 1}")
    assert browser.run(f"{button}.getAttribute('aria-pressed')") == "false"
    assert browser.run(matrix) is True
    assert browser.run(other) == others
    browser.press("Enter", "\r")
    browser.until(f"{lines} === {whole}")
    assert browser.run(matrix) is False
    assert browser.complaints == []
