"""The commands of README and of the documentation: all can be read, and those on photos are run."""

import importlib
import json
import pathlib
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bsce_jax import cli, loading, train
from bsce_jax.training.loop import run

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OWN_FILES = ("anchor.py", "coarse.py")  # that a page has in full
SHORT = ("dataset.image_size=8", "model.name=small", "train.epochs=1", "memory.size=3")


def commands(page: pathlib.Path) -> Iterator[list[str]]:
    """Find the words of each command of this package, in blocks of shell and in indented ones."""
    text = page.read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    blocks += re.findall(r"(?:^    \S.*\n(?:^     .*\n)*)+", text, re.MULTILINE)
    for block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            line = line.replace("bash launch/local.sh", "python -m bsce_jax.train")
            found = re.search(r"(?:^|[ /])python -m bsce_jax\.(\w+)(.*)", line)
            if found:
                words = shlex.split(found[2], comments=True)
                yield [found[1], *(word for word in words if not word.startswith("$"))]


def module(command: str) -> Any:
    """Import a command's module."""
    found = importlib.import_module(f"bsce_jax.{command}")
    if hasattr(found, "__path__"):  # a package
        found = importlib.import_module(f"bsce_jax.{command}.__main__")
    return found


class Ready(Exception):
    """The command has read its arguments."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_can_be_read(page: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = cli.Parser.read

    def check_files(files: Iterable[str]) -> None:
        assert {*files} <= {*OWN_FILES}

    def read_only(parser: cli.Parser, argv: Sequence[str]) -> None:
        args = read(parser, argv)
        given = getattr(args, "config", None)
        if given is not None and given.partition(":")[0] not in OWN_FILES:
            loading.make_config(given, args.overrides)
        raise Ready

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(cli.Parser, "read", read_only)
    monkeypatch.setattr(cli, "import_files", check_files)
    for command, *words in commands(page):
        with pytest.raises((Ready, SystemExit)):  # --help exits
            module(command).main(words)


def test_the_commands_are_found() -> None:
    found = [command for page in PAGES for command, *_ in commands(page)]
    assert len(found) > 35
    assert {*found} == {"train", "prepare", "predict", "export", "report", "bench"}


def test_the_page_on_photos_runs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)

    def photos(*files: str) -> None:
        for file in map(pathlib.Path, files):
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (12, 10, 3), np.uint8)).save(file)

    def classes(folder: str, names: Sequence[str]) -> None:
        photos(*(f"{folder}/{name}/{i}.jpg" for name in names for i in range(6)))

    photos("new.jpg", "holiday/1.jpg")
    classes("more_photos", ("cat", "dog"))
    prepared = 0
    for command, *words in commands(ROOT / "docs" / "photos.md"):
        if command == "prepare":
            classes("PHOTOS", (("cat", "dog", "horse", "bird"), ("otter", "hare"))[prepared])
            prepared += 1
        if command == "train":
            if "--config" in words:  # an extended run keeps its settings
                words += [f"--config.{field}" for field in SHORT]
            run(*train.parse(words))
        else:
            module(command).main(words)
    assert prepared == 2
    assert pathlib.Path("mine.html").stat().st_size > 100_000
    labels = json.loads(pathlib.Path("mine_model/labels.json").read_text())["class_names"]
    assert sorted(labels) == ["bird", "cat", "dog", "hare", "horse", "otter"]
