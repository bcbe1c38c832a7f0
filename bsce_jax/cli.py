"""The arguments of all commands."""

import argparse
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from bsce_jax.errors import UserError, nearest
from bsce_jax.files import is_url
from bsce_jax.loading import PREFIX, config_names, describe_config, import_files


def local_path(text: str) -> pathlib.Path:
    """Read an argument that names a local file or folder.

    Raises:
      UserError: it is a URL, which pathlib would take for a local folder.
    """
    if is_url(text):
        raise UserError(f"{text} is remote: give a local path")
    return pathlib.Path(text)


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
            self.epilog = f"{PREFIX}SECTION.FIELD=VALUE sets one field of the config."
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
        import_files(getattr(args, "imports", []))
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
            import_files(filter(None, asked.imports))
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
            return UserError(f"unknown flag {flag!r}: say {PREFIX}{meant}={value}")
        hint = f"did you mean {' or '.join(options[n] for n in near)}?" if near else "see --help"
        return UserError(f"unknown flag {flag!r}; {hint}")


def _take_overrides(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Split off the overrides; a value follows `=` or is the next word."""
    rest: list[str] = []
    overrides = {}
    following = iter(words)
    for word in following:
        if not word.startswith(PREFIX):
            rest.append(word)
            continue
        path, equals, text = word.removeprefix(PREFIX).partition("=")
        if not equals:
            text = next(following, "--")
            if text.startswith("--"):
                raise UserError(f"{word} has no value: say {word}=VALUE")
        overrides[path] = text
    return rest, overrides


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
