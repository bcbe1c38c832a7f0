"""All commands under one name: `bsce-jax COMMAND ...`, or `python -m bsce_jax COMMAND ...`."""

import runpy
import sys

from bsce_jax import __version__
from bsce_jax.errors import UserError, exit_on_user_error, unknown

COMMANDS = {
    "train": "train a run from a config",
    "prepare": "get a data set ready in a data folder",
    "predict": "predict the classes of photos with a trained run",
    "export": "write a trained run as a program that does not need this package",
    "report": "compare trained runs: a page, or figures and tables for a paper",
    "bench": "measure how fast this machine trains",
}


def main() -> None:
    """Run the command that the first argument names, as `python -m bsce_jax.COMMAND` does."""
    command, *rest = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help"):
        lines = [f"  {name:<9} {what}" for name, what in COMMANDS.items()]
        print("\n".join(["usage: bsce-jax COMMAND ... | --version", "", *lines, ""]))
        print("bsce-jax COMMAND --help describes a command.")
        return
    if command == "--version":
        print(f"bsce_jax {__version__}")
        return
    if command.startswith("-"):
        raise UserError(f"{command!r} is not a command; say which command: {', '.join(COMMANDS)}")
    if command not in COMMANDS:
        raise unknown("command", command, COMMANDS)
    sys.argv[1:] = rest
    runpy.run_module(f"bsce_jax.{command}", run_name="__main__", alter_sys=True)


def start() -> None:
    """Run as the console script."""
    exit_on_user_error(main)


if __name__ == "__main__":
    start()
