"""Damage: every file of a run's folder, in every way; then the same call once more."""

import collections
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from tiny_run import interrupted

from bsce_jax.errors import UserError

from . import cases


class State(NamedTuple):
    """A folder to damage.

    Attributes:
      name: of the state.
      folder: in that state.
      earlier: the folder in an earlier state.
    """

    name: str
    folder: pathlib.Path
    earlier: pathlib.Path


def _flip(path: pathlib.Path, earlier: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _cut(path: pathlib.Path, earlier: pathlib.Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _swap(path: pathlib.Path, earlier: pathlib.Path) -> None:
    shutil.copyfile(earlier, path)


def _turn_into_a_folder(path: pathlib.Path, earlier: pathlib.Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[pathlib.Path, pathlib.Path], object]] = {
    "a bit flipped": _flip,
    "cut in half": _cut,
    "emptied": lambda path, earlier: path.write_bytes(b""),
    "deleted": lambda path, earlier: path.unlink(),
    "an older one": _swap,
    "a folder": _turn_into_a_folder,
}


def states(place: pathlib.Path, case: cases.Case) -> tuple[pathlib.Path, list[State]]:
    """Make an undisturbed run, and folders that were stopped in a task and after the last one."""
    straight = place / "undisturbed"
    cases.train(case, straight)
    folders: list[pathlib.Path] = []
    for task, epoch in ((0, 3), (1, 3), (1, 6)):
        folder = place / f"task_{task}_epoch_{epoch}"
        if folders:
            shutil.copytree(folders[-1], folder)
        with interrupted("stopped", task=task, epoch=epoch):
            cases.train(case, folder)
        folders.append(folder)
    return straight, [
        State("in the second task", folders[2], folders[1]),
        State("finished", straight, folders[2]),
    ]


def files(folder: pathlib.Path) -> list[pathlib.Path]:
    """List the files of a folder, relative to it."""
    return sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())


def kind(file: pathlib.Path) -> str:
    """Name the kind of a file: its folder, or itself."""
    if file.parts[0] == "checkpoints":
        return "seal of a checkpoint" if file.suffix == ".sealed" else "checkpoint"
    return file.parts[0] if len(file.parts) > 1 and file.parts[0] != "model" else file.name


def every_damage(state: State) -> Iterator[tuple[pathlib.Path, str]]:
    """List all files of a state with all damages that can be done to them."""
    for file in files(state.folder):
        names = set(DAMAGES)
        if not (state.folder / file).stat().st_size:
            names -= {"a bit flipped", "cut in half", "emptied"}
        if not (state.earlier / file).is_file():
            names.remove("an older one")
        yield from ((file, name) for name in DAMAGES if name in names)


def try_damage(
    case: cases.Case,
    straight: pathlib.Path,
    state: State,
    file: pathlib.Path,
    damage: str,
) -> tuple[str, str]:
    """Damage a file, and give the same call.

    Returns:
      The outcome, and what was said: "same" with the results of an undisturbed run, "refused" in
      one line, or what is wrong.
    """
    folder = state.folder.parent / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(state.folder, folder)
    DAMAGES[damage](folder / file, state.earlier / file)
    try:
        lines = cases.train(case, folder).splitlines(keepends=True)
        # every run that ends names its results.json
        said = "".join(line for line in lines if not line.startswith("finished after "))
    except UserError as error:
        text = str(error)
        return ("refused" if "\n" not in text else "refused in several lines"), text
    except Exception as error:  # a traceback, which is a failure to report
        return f"{type(error).__name__}: {error}", ""
    wrong = cases.differences(folder, straight)
    if wrong and all(name in said for name in wrong):
        return "same but for what is said", said
    return ", ".join(wrong) or "same", said


RIGHT = ("same", "same but for what is said", "refused")


def try_damages(
    case: cases.Case,
    straight: pathlib.Path,
    tried: Sequence[tuple[State, pathlib.Path, str]],
    end: float = float("inf"),
) -> tuple[collections.Counter[tuple[str, str, str]], list[str]]:
    """Damage files, one at a time.

    Returns:
      How often each outcome came, by state, kind of file and outcome; and the failures.
    """
    done: collections.Counter[tuple[str, str, str]] = collections.Counter()
    failures = []
    with cases.one_trainer():
        for state, file, damage in tried:
            if time.monotonic() > end:
                break
            outcome, said = try_damage(case, straight, state, file, damage)
            if outcome not in RIGHT:
                failures.append(f"{state.name}, {file} {damage}: {outcome}; it said {said!r}")
            done[state.name, kind(file), outcome] += 1
    return done, failures
