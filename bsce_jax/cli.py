"""The command line: the arguments of all commands, and configs.

`--config` takes the name of a config of the package, a file of yours, or the `config.json` of a
run. Single fields are then set with `--config.section.field=value`.
"""

import argparse
import dataclasses
import inspect
import json
import os
import pathlib
import sys
import traceback
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from bsce_jax.errors import UserError, nearest, unknown

if TYPE_CHECKING:
    from ml_collections import ConfigDict

_PREFIX = "--config."


class Parser(argparse.ArgumentParser):
    """Reads a command's arguments. Its description is printed unchanged, an error in one line.

    Args:
      takes_fields: whether the command takes `--config.section.field=value`; these become
        `overrides`, from path to text.
      takes_config: whether it takes `--config` too.
      opens_runs: whether it opens runs; then, or with `takes_config`, it takes `--import`.
      **kwargs: of `argparse.ArgumentParser`.
    """

    def __init__(
        self,
        takes_fields: bool = False,
        takes_config: bool = False,
        opens_runs: bool = False,
        **kwargs: Any,
    ):
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **kwargs
        )
        self.takes_fields = takes_fields or takes_config
        self.takes_config = takes_config
        if self.takes_fields:
            self.epilog = f"{_PREFIX}SECTION.FIELD=VALUE sets one field of the config."
        if takes_config:
            self.add_argument(
                "--config",
                metavar="NAME[:name=value,...]",
                help="a config of the package, a FILE.py, or the config.json of a run; its "
                "arguments follow the colon; with --help, lists all fields",
            )
        if takes_config or opens_runs:
            self.add_argument(
                "--import",
                dest="imports",
                action="append",
                default=[],
                metavar="FILE.py",
                help="registers objects of your own that a run uses; several files: several times",
            )

    def read(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """Read arguments and run the files to import; print the help and exit if they ask for it.

        Args:
          argv: without the program's name; None means those of the process.

        Raises:
          UserError: invalid arguments.
        """
        words = list(sys.argv[1:] if argv is None else argv)
        overrides: dict[str, str] = {}
        if self.takes_fields:
            words, overrides = _take_overrides(words)
        if {"-h", "--help"} & set(words):
            self._show_help(words, overrides)
            sys.exit(0)
        args, rest = self.parse_known_args(words)
        if rest:
            raise self._unknown(*rest)
        _import(getattr(args, "imports", []))
        args.overrides = overrides
        return args

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")

    def _show_help(self, words: Sequence[str], overrides: Mapping[str, str]) -> None:
        print(self.format_help())
        alone = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        alone.add_argument("--config", nargs="?")
        alone.add_argument("--import", dest="imports", action="append", nargs="?", default=[])
        asked = alone.parse_known_args(words)[0]
        if self.takes_config and asked.config is not None:
            _import(filter(None, asked.imports))
            print(describe_config(asked.config, overrides))

    def _unknown(self, word: str, following: str = "", *more: str) -> UserError:
        """Make the error for an unknown argument."""
        if not word.startswith("-"):
            name = word.partition(":")[0]
            if self.takes_config and (name.endswith((".py", ".json")) or name in config_names()):
                return UserError(f"what is {word!r}? say --config {word}")
            return UserError(f"what is {word!r}? see --help")
        flag, _, value = word.partition("=")
        name = flag.lstrip("-")
        options = {option.lstrip("-"): option for a in self._actions for option in a.option_strings}
        near = nearest(name, options)
        meant = (
            _field_meant(name, 0.75)
            if self.takes_fields and not nearest(name, options, 0.75)
            else None
        )
        if meant is not None:
            value = value or ("VALUE" if following.startswith("-") else following) or "VALUE"
            return UserError(f"unknown flag {flag!r}: say {_PREFIX}{meant}={value}")
        hint = f"did you mean {' or '.join(options[n] for n in near)}?" if near else "see --help"
        return UserError(f"unknown flag {flag!r}; {hint}")


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
    lines += [f"fields, as {_PREFIX}section.field=value"]
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


def _import(files: Iterable[str]) -> None:
    """Execute files that register objects.

    Raises:
      UserError: one does not exist. Exceptions of a file are raised unchanged.
    """
    for file in files:
        if not os.path.isfile(file):
            raise UserError(f"no file {file} to import")
        _program(pathlib.Path(file))


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


def _take_overrides(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Split off the overrides; a value follows `=` or is the next word."""
    rest: list[str] = []
    overrides = {}
    following = iter(words)
    for word in following:
        if not word.startswith(_PREFIX):
            rest.append(word)
            continue
        path, equals, text = word.removeprefix(_PREFIX).partition("=")
        if not equals:
            text = next(following, "--")
            if text.startswith("--"):
                raise UserError(f"{word} has no value: say {word}=VALUE")
        overrides[path] = text
    return rest, overrides


def _no_such_field(path: str, text: str, described: Mapping[str, Any]) -> UserError:
    from bsce_jax.config import no_such_field

    if f"{path}.name" in described:
        arguments = f", or --config NAME:{path}={text}" if path in ("method", "loss") else ""
        return UserError(f"config.{path} is a section: say {_PREFIX}{path}.name={text}{arguments}")
    return no_such_field(path, described)


def _field_meant(name: str, cutoff: float) -> str | None:
    """Find the field that a flag names, such as `train.epochs` for `--epochs`.

    Args:
      name: of the flag.
      cutoff: least similarity of the spellings, from 0 to 1.
    """
    from bsce_jax.config import fields
    from bsce_jax.methods import METHODS
    from bsce_jax.methods.criterion import CRITERIA

    paths = {path: path for m in METHODS for loss in CRITERIA for path in fields(m, loss)}
    names = dict(paths)
    for path in paths:
        section, _, last = path.rpartition(".")
        names.setdefault(section if last == "name" else last, path)
    found = nearest(name.replace("-", "_"), names, cutoff)
    return names[found[0]] if found else None
