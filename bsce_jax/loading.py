"""A config as the command line gives it: found, read or executed, and its fields set.

`--config` takes the name of a config of the package, a file of yours, or the `config.json` of a
run. Single fields are then set with `--config.section.field=value`.
"""

import dataclasses
import inspect
import json
import os
import pathlib
import sys
import traceback
import types
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from bsce_jax.errors import UserError, unknown

if TYPE_CHECKING:
    from ml_collections import ConfigDict

PREFIX = "--config."


def make_config(given: str, overrides: Mapping[str, str]) -> "ConfigDict":
    """Make the locked config of a command line.

    Args:
      given: value of `--config`: a name or a file, and its arguments after a colon.
      overrides: text of fields by path, as `Parser.read` returns them.

    Raises:
      UserError: no such config, argument or field, or an invalid value.
    """
    return _load(given, overrides).config


def describe_config(given: str, overrides: Mapping[str, str]) -> str:
    """Describe a config for `--help`: the docstring of its file, its arguments and all fields.

    Args:
      given, overrides: see `make_config`.
    """
    from bsce_jax.config import fields

    loaded = _load(given, overrides)
    lines = [f"{loaded.path}", "", loaded.doc, ""] if loaded.doc else [f"{loaded.path}", ""]
    if loaded.arguments:
        lines += ["arguments, as --config NAME:name=value,name=value"]
        lines += [
            f"  {name}" if value is None else f"  {name}={value}"
            for name, value in loaded.arguments.items()
        ]
        lines += [""]
    lines += [f"fields, as {PREFIX}section.field=value"]
    for path, field in fields(loaded.config.method.name, loaded.config.loss.name).items():
        section, _, name = path.rpartition(".")
        value = (loaded.config[section] if section else loaded.config)[name]
        lines.append(field.describe(value, path))
    return "\n".join(lines)


def config_names() -> dict[str, pathlib.Path]:
    """Find the configs that come with the package, by name."""
    return {path.stem: path for path in sorted(shipped("configs").glob("*.py"))}


def shipped(name: str) -> pathlib.Path:
    """Find a folder that is at the top of a checkout, and inside the package in a wheel."""
    package = pathlib.Path(__file__).resolve().parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


def import_files(files: Iterable[str]) -> None:
    """Execute files that register objects.

    Raises:
      UserError: one does not exist. Exceptions of a file are raised unchanged.
    """
    for file in files:
        if not os.path.isfile(file):
            raise UserError(f"no file {file} to import")
        _program(pathlib.Path(file))


@dataclasses.dataclass(frozen=True)
class _Loaded:
    """A config read from its file, with the overrides applied.

    Attributes:
      path: of the file.
      config: locked.
      doc: docstring of the file.
      arguments: of the file, with their defaults.
    """

    path: pathlib.Path
    config: "ConfigDict"
    doc: str
    arguments: dict[str, Any]


def _load(given: str, overrides: Mapping[str, str]) -> _Loaded:
    from bsce_jax import config

    file, _, argument = given.partition(":")
    fields = dict(overrides)
    path = _find(file)
    if path.suffix == ".json" and argument:
        raise UserError(f"{path} is data and takes no arguments such as {argument!r}")
    for part in ("method", "loss"):
        # the method and the loss decide the fields and defaults: pass them to the config file
        name = fields.pop(f"{part}.name", None)
        if name is not None:
            if "," in name:  # would be another argument
                raise UserError(f"{part}.name is {name!r}: one name is right")
            argument += f"{',' if argument else ''}{part}={name}"
    config.taken.clear()
    sections, doc = (_read_json(path), "") if path.suffix == ".json" else _run(path, argument)
    try:
        if path.suffix == ".json":
            sections, missing = config.add_missing(sections)
            for field in missing:
                print(f"{path} has no {field}: taking the default", file=sys.stderr)
        loaded = config.from_dict(sections)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    _check_taken(path, argument, loaded)
    described = config.fields(loaded.method.name, loaded.loss.name)
    for field, text in fields.items():
        if field not in described:
            raise _no_such_field(field, text, described)
        section, _, name = field.rpartition(".")
        (loaded[section] if section else loaded)[name] = described[field].read(text, field)
    return _Loaded(path, loaded, doc, dict(config.taken))


def _check_taken(path: pathlib.Path, argument: str, config: "ConfigDict") -> None:
    """Check that a config file has the method and the loss that its argument names."""
    asked = dict(item.split("=", 1) for item in argument.split(",") if "=" in item)
    for part in ("method", "loss"):
        if asked.get(part, config[part].name) != config[part].name:
            if path.suffix == ".json":
                raise UserError(
                    f"{path} has the {part} {config[part].name} and its fields: take another "
                    f"config for {asked[part]}"
                )
            raise UserError(
                f"{path} ignores the argument {part}={asked[part]}: its get_config must read it, "
                "with config.arguments"
            )


def _find(name: str) -> pathlib.Path:
    """Find a config: a file where the name ends in .py or .json, else one of the package."""
    path, known = pathlib.Path(name), config_names()
    if path.suffix in (".py", ".json"):
        if path.is_file():
            return path
        hint = f"; the package has one: say --config {path.stem}" if path.stem in known else ""
        raise UserError(f"no config file {name}{hint}")
    if name not in known:
        for other in (f"{name}.py", os.path.join(name, "config.json")):
            if os.path.isfile(other):
                raise UserError(f"no config {name!r}; did you mean {other}?")
        raise unknown("config", name, known)
    return known[name]


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        sections = json.loads(path.read_bytes())
    except (OSError, RecursionError, ValueError) as error:  # of JSON and of UTF-8
        raise UserError(f"cannot read {path}: {error}") from error
    if not isinstance(sections, dict):
        raise UserError(f"{path} is not a config: an object of sections is right")
    return sections


def _run(path: pathlib.Path, argument: str) -> tuple[dict[str, Any], str]:
    """Call a config file's `get_config`; return the config's sections and the file's docstring.

    A field that cannot be set becomes a `UserError` of one line. Any other exception of the file is
    raised unchanged, with its traceback: the file is the user's program.
    """
    from ml_collections import ConfigDict

    try:
        program = _program(path)
        if "get_config" not in program:
            raise UserError(f"{path} has no function get_config")
        get_config = program["get_config"]
        if not inspect.signature(get_config).parameters:
            if argument:
                raise UserError(f"{path} takes no arguments such as {argument!r}")
            config = get_config()
        else:
            config = get_config(argument) if argument else get_config()
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if frame.filename == str(path)]
        if not own or pathlib.Path(frames[-1].filename).parent != _config_dict_folder():
            raise
        said = error.args[0]
        if isinstance(said, KeyError):  # ml_collections wraps it in an AttributeError
            said = said.args[0]
        first, _, hint = str(said).partition("\n")
        first = first.partition(" Other fields present")[0]
        place = f"{path}:{own[-1].lineno}: {own[-1].line}"
        raise UserError(f"{place}: {first} {hint}".strip()) from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"get_config of {path} returns no ConfigDict: start from config.default")
    return config.to_dict(), inspect.cleandoc(program.get("__doc__") or "")


def _no_such_field(path: str, text: str, described: Mapping[str, Any]) -> UserError:
    from bsce_jax.config import no_such_field

    if f"{path}.name" in described:
        arguments = f", or --config NAME:{path}={text}" if path in ("method", "loss") else ""
        return UserError(f"config.{path} is a section: say {PREFIX}{path}.name={text}{arguments}")
    return no_such_field(path, described)


def _program(path: pathlib.Path) -> dict[str, Any]:
    """Execute a file and return its names.

    It stays in `sys.modules`, where the annotations of its classes are resolved.
    """
    module = types.ModuleType(f"<{path}>")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), module.__dict__)
    return module.__dict__


def _config_dict_folder() -> pathlib.Path:
    from ml_collections import config_dict

    return pathlib.Path(config_dict.__file__).parent
