"""What other programs may rely on, as a listing: `.venv/bin/python tests/public_api.py` writes it.

Public are the names that docs/api.md documents, what is registered by name, the flags of the
commands, the fields of configs, and the files of a run.
"""

import importlib
import inspect
import json
import pathlib
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from unittest.mock import patch

import numpy as np
from tiny_run import make_config, some_digits

from bsce_jax import cli, config, loading
from bsce_jax.__main__ import COMMANDS
from bsce_jax.fields import Field, fields_of
from bsce_jax.methods import METHODS
from bsce_jax.methods.criterion import CRITERIA
from bsce_jax.registry import Registry
from bsce_jax.training.loop import run

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "api.md").read_text()
FILE = ROOT / "tests" / "public_api.txt"


def listing() -> str:
    """List the public interface, a sorted line for each thing."""
    parts: dict[str, Iterable[str]] = {
        "names that docs/api.md documents": names(),
        "registered": registered(),
        "configs": loading.config_names(),
        "flags of the commands": flags(),
        "fields of a config": fields(),
        "files of a run": run_files(),
    }
    return "\n".join(
        "\n".join([f"# {title}", *sorted(lines), ""]) for title, lines in parts.items()
    )


def names() -> Iterator[str]:
    """List functions, and classes with their members, by the directives of the page."""
    for kind, path, options in re.findall(r"\.\. auto(\w+):: (\S+)((?:\n +:.*)*)", PAGE):
        if kind == "module":
            module = importlib.import_module(path)
            excluded = re.findall(r"\w+", options.partition("exclude-members:")[2])
            for name, thing in vars(module).items():
                own = getattr(thing, "__module__", None) == path and not name.startswith("_")
                if own and thing.__doc__ and name not in excluded:
                    yield from _thing(f"{path}.{name}", thing)
        else:
            yield from _thing(path, _found(path))


def registered() -> Iterator[str]:
    """List the names that come with the package, of each registry in the page's table."""
    for path in re.findall(r"\| `(bsce_jax\.[\w.]+)` \|", PAGE):
        yield f"{path}: {' '.join(_own(_found(path)))}"


def flags() -> Iterator[str]:
    """List the flags and the words that each command takes."""

    class Reached(Exception):
        """The command is about to read its arguments."""

    for command in COMMANDS:
        module = importlib.import_module(f"bsce_jax.{command}")
        if hasattr(module, "__path__"):  # a package
            module = importlib.import_module(f"bsce_jax.{command}.__main__")
        with patch.object(cli.Parser, "read", autospec=True, side_effect=Reached) as read:
            try:
                module.main([])
            except Reached:
                parser = read.call_args.args[0]
        for action in parser._actions:
            if action.dest != "help":
                name = " ".join(action.option_strings) or action.metavar or action.dest
                needed = action.required and action.option_strings
                yield f"{command} {name}" + (" (required)" if needed else "")


def fields() -> Iterator[str]:
    """List the fields with their types and defaults, those of methods and losses apart."""
    for path, one in config.fields("replay", "cross_entropy").items():  # which have none
        yield _field(path, one)
    registries: dict[str, Registry[Any]] = {"method": METHODS, "loss": CRITERIA}
    for kind, registry in registries.items():
        for name in _own(registry):
            for one in fields_of(registry[name]).values():
                yield _field(f"{kind}[{name}].{one.name}", one)


def run_files() -> Iterator[str]:
    """List the files of a short run, and what is in those that other programs read."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary, "run")
        run(make_config("il_baseline", fields={"train.epochs": 1}), folder, some_digits())
        for path in folder.glob("[!.]*"):
            yield f"{path.name}/" if path.is_dir() else path.name
        for part in ("model", "predictions"):  # the others' contents are for this package alone
            yield from (f"{part}/{path.name}" for path in (folder / part).iterdir())
        results = json.loads((folder / "results.json").read_text())
        yield from (f"results.json {key}" for key in _keys(results))
        log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for kind in {entry["kind"] for entry in log}:
            keys = {key for entry in log if entry["kind"] == kind for key in entry}
            yield f"metrics.jsonl {kind}: {' '.join(sorted(keys))}"
        with np.load(folder / "predictions" / "task_01.npz") as saved:
            for name, array in saved.items():
                yield f"predictions/task_01.npz {name}: {array.dtype} {array.ndim}-d"
        model = json.loads((folder / "model" / "model.json").read_text())
        yield f"model/model.json: {' '.join(sorted(model))}"


def _own(registry: Registry[Any]) -> list[str]:
    """List the names that the package registers, and not a test."""
    return [name for name in registry if registry[name].__module__.startswith("bsce_jax.")]


def _found(path: str) -> Any:
    """Import a thing by its full name."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _thing(path: str, thing: Any) -> Iterator[str]:
    """List a function, or a class with its members and the attributes that it documents."""
    is_protocol = getattr(thing, "_is_protocol", False)  # nobody calls it
    yield path if is_protocol else f"{path}{_signature(thing)}"
    if not inspect.isclass(thing):
        return
    described = re.search(r"^Attributes:\n((?:  .*\n?|\n)*)", inspect.getdoc(thing) or "", re.M)
    attributes = re.findall(r"^  (\w[\w, ]*):", described[1], re.M) if described else []
    members = {name: "" for line in attributes for name in line.split(", ")}
    for cls in reversed(thing.__mro__):
        if cls.__module__.startswith("bsce_jax."):
            for name, member in vars(cls).items():
                function = getattr(member, "__func__", member)  # of a class method
                if inspect.isfunction(function):
                    own = function.__module__.startswith("bsce_jax.")  # not what flax adds
                    if own and not name.startswith("_"):
                        members[name] = _signature(function)
                elif not name.startswith("_"):
                    members[name] = ""
    yield from (f"{path}.{name}{signature}" for name, signature in members.items())


def _signature(thing: Any) -> str:
    """Write the arguments with their defaults: types and shapes are in the documentation."""
    signature = inspect.signature(thing)
    empty = inspect.Parameter.empty
    arguments = [one.replace(annotation=empty) for one in signature.parameters.values()]
    return str(signature.replace(parameters=arguments, return_annotation=empty))


def _field(path: str, one: Field) -> str:
    kind = str(one.type) if one.is_tuple else one.type.__name__
    return f"{path}: {kind} = {one.default!r}"


def _keys(value: Mapping[str, Any], start: str = "") -> Iterator[str]:
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _keys(inner, f"{start}{key}.")
        else:
            yield f"{start}{key}"


if __name__ == "__main__":
    FILE.write_text(listing())
