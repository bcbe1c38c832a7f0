"""How a command ends before its time: errors that are the user's to mend, and being stopped."""

import argparse
import difflib
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn


class UserError(Exception):
    """Bad input: says in one line what is wrong and what would be right.

    Commands print it and exit with code 2; a library user can catch it.
    """


class Stopped(Exception):
    """A run was asked to stop and has saved where it stands.

    Attributes:
      signal: what asked.
    """

    def __init__(self, signal: int):
        super().__init__(f"stopped by signal {signal}")
        self.signal = signal


class Parser(argparse.ArgumentParser):
    """Reads a command's arguments; shows its description as it is written, errors in one line."""

    def __init__(self, **kwargs: Any):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")


def unknown(kind: str, name: object, valid: Iterable[object]) -> UserError:
    """Makes the error for a name that does not exist, with the nearest valid ones.

    Args:
      kind: what the name should be, for example `"method"`.
      name: what was given.
      valid: every name that would have been right.
    """
    names = sorted(str(v) for v in valid)
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"valid: {', '.join(names)}"
    return UserError(f"unknown {kind} {str(name)!r}; {hint}")


def exit_on_user_error(main: Callable[[], None]) -> None:
    """Runs a command: a `UserError` becomes one line on stderr and exit code 2.

    A signal ends the command with the shell's usual code (130 for Ctrl-C) and no traceback.
    """
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Stopped as stopped:
        print("stopped", file=sys.stderr)
        sys.exit(128 + stopped.signal)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
