"""Trains a class-incremental run from a config file.

usage: python -m bsce_jax.train --config FILE.py[:name=value,...] --workdir DIR
                                [--config.section.field=value ...]

  --config   a config file; behind the colon the arguments that it takes, such as
             method=il_baseline,loss=balanced_softmax,base=50,increment=10
  --workdir  where the run lives; the same command again goes on where it stopped
  --config.section.field=value   sets one field of the config
  --help     shows this; with --config, also every field of the config and its value
  --help-methods   lists the methods and the losses with their fields

Exit codes: 0 done; 2 bad input; 130 or 143 stopped by Ctrl-C or SIGTERM, with everything saved.
"""

import os
import re
import runpy
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bsce_jax.errors import Stopped, UserError, exit_on_user_error, unknown

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def parse(argv: Sequence[str]) -> "tuple[ConfigDict, str]":
    """Reads the command line (without the program's name) into a config and a work directory.

    Raises:
      UserError: a flag, a field or a value that cannot be.
    """
    from absl import flags
    from ml_collections import config_flags

    given, argv = _take("--config", argv)
    if given is None:
        raise UserError("say --config FILE.py, for example --config configs/digits.py")
    for part in ("method", "loss"):
        # their fields and defaults come with them, so the config file must know
        name, argv = _take(f"--config.{part}.name", argv)
        if name is not None:
            given += f"{',' if ':' in given else ':'}{part}={name}"
    config = _load(given)
    _check_fields(config, argv)
    words = ["train", *argv]
    values = flags.FlagValues()
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=words)
    flags.DEFINE_string("workdir", None, "where the run lives", flag_values=values)
    try:
        rest = values(words)
    except flags.Error as error:
        raise UserError(str(error)) from error
    if len(rest) > 1:
        raise UserError(f"what is {rest[1]!r}? see --help")
    if values.workdir is None:
        raise UserError("say --workdir DIR: where the run is to live")
    return values.config, values.workdir


def _load(given: str) -> "ConfigDict":
    """Runs a config file's `get_config` on what stands behind the colon.

    Whatever is wrong with the file itself comes up as Python puts it: it is the user's program.
    """
    file, colon, argument = given.partition(":")
    if not os.path.isfile(file):
        raise UserError(f"no config file {file}")
    get_config = runpy.run_path(file).get("get_config")
    if get_config is None:
        raise UserError(f"{file} has no function get_config")
    config: ConfigDict = get_config(argument) if colon else get_config()
    return config


def _take(flag: str, argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """Finds the last value of a flag, and the arguments without the flag."""
    value, rest, words = None, [], iter(argv)
    for word in words:
        name, equals, text = word.partition("=")
        if name != flag:
            rest.append(word)
        elif equals:
            value = text
        else:
            value = next(words, value)
    return value, rest


def _check_fields(config: "ConfigDict", argv: Sequence[str]) -> None:
    """Refuses `--config.a.b` where the config has no a.b."""
    from ml_collections import ConfigDict

    for argument in argv:
        match = re.match(r"--?config\.([^=]+)", argument)
        if match is None:
            continue
        section: object = config
        path = match.group(1).split(".")
        for depth, name in enumerate(path):
            if not isinstance(section, ConfigDict) or name not in section:
                valid = section.keys() if isinstance(section, ConfigDict) else []
                raise unknown(f"field of {'.'.join(['config', *path[:depth]])}", name, valid)
            section = section[name]


def main() -> None:
    """Runs the command."""
    argv = sys.argv[1:]
    if {"--help", "-h"} & set(argv):
        print(__doc__)
        if _take("--config", argv)[0] is not None:
            shown = [a for a in argv if a not in ("--help", "-h")]
            print(parse([*shown, "--workdir=."])[0])
        return
    if "--help-methods" in argv:
        from bsce_jax.report.catalogue import text

        print(text())
        return
    config, folder = parse(argv)

    from bsce_jax.report.table import print_results
    from bsce_jax.training import compiler
    from bsce_jax.training.run import run

    compiler.keep_programs()
    try:
        results = run(config, folder)
    except Stopped as stopped:
        print(f"stopped; the same command goes on from {folder}", file=sys.stderr)
        sys.exit(128 + stopped.signal)
    print_results(results)


if __name__ == "__main__":
    # Until there is something to save, Ctrl-C ends the process at once. An exception would come up
    # somewhere in the libraries that are being loaded, and some of them lose it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    exit_on_user_error(main)
