"""The ways a command ends early: bad input, and a request to stop."""

import contextlib
import difflib
import errno
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator

# errors of a path that was given, whatever was to be done with it
OF_PATHS = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EROFS)
COPIES: dict[str, str] = {}  # temporary folders, and what they are copies of


def shown(text: str) -> str:
    """Name what temporary folders are copies of, in a text for the user."""
    for folder, original in list(COPIES.items()):
        text = text.replace(folder, original)
    return text


class UserError(Exception):
    """Bad input; the message says in one line what is wrong and what would be right.

    Commands print it and exit with `exit_code`; a library user can catch it.
    """

    exit_code = 2

    def __init__(self, message: str):
        super().__init__(shown(message))


class NoSpace(UserError):
    """A disk is full. Nothing is lost: the same command goes on once there is room."""

    exit_code = 3


class Stopped(Exception):
    """Raised when a signal stopped a command; a run has saved a checkpoint before.

    Attributes:
      signal: number of the signal.
    """

    def __init__(self, signal: int):
        super().__init__(f"stopped by signal {signal}")
        self.signal = signal


def nearest(name: str, valid: Iterable[str], cutoff: float = 0.5) -> list[str]:
    """List the likeliest valid names: those with these initials (`lr`), or the closest spellings.

    Args:
      name: what was given.
      valid: all valid names.
      cutoff: least similarity of the spellings, from 0 to 1.
    """
    names = sorted(valid)
    short = [n for n in names if "_" in n and "".join(part[:1] for part in n.split("_")) == name]
    return short or difflib.get_close_matches(name, names, n=3, cutoff=cutoff)


def unknown(kind: str, name: object, valid: Iterable[object]) -> UserError:
    """Make the error for a name that does not exist, with the nearest valid ones.

    Args:
      kind: what the name should be, for example `"method"`.
      name: what was given.
      valid: all valid names.
    """
    names = sorted(str(v) for v in valid)
    near = nearest(str(name), names)
    hint = f"did you mean {' or '.join(near)}?" if near else f"valid: {', '.join(names)}"
    return UserError(f"unknown {kind} {str(name)!r}; {hint}")


def is_no_space(error: BaseException | None) -> bool:
    """Tell whether an error came of a full disk, or of another error that did."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        # as tensorstore and array_record say it
        texts = isinstance(error, ValueError | RuntimeError)
        if texts and os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def no_space(folder: str | os.PathLike[str]) -> NoSpace:
    """Make the error for a full disk that a folder is on."""
    return NoSpace(f"no space left in {folder}: free some and give the same command")


@contextlib.contextmanager
def using(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Turn the errors of a file system, of whatever library, into a `UserError`.

    Args:
      folder: whose files are used.

    Raises:
      NoSpace: the disk is full.
      UserError: a file cannot be read or written, or too many are open.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        if is_no_space(error):
            raise no_space(folder) from error
        if not isinstance(error, OSError):
            raise
        if error.errno == errno.EMFILE:
            raise UserError(
                "too many open files: raise the limit (ulimit -n) and give the same command"
            ) from error
        if error.filename is None:  # not of a file
            raise
        raise UserError(f"cannot use {os.fsdecode(error.filename)}: {error.strerror}") from error


def in_one_line(text: str) -> str:
    """Escape what is not printable, such as a newline in a file's name."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def report(error: UserError) -> None:
    """Print the one line of an error."""
    print(f"error: {in_one_line(str(error))}", file=sys.stderr)
    sys.stderr.flush()


def exit_on_user_error(main: Callable[[], None]) -> None:
    """Run a command; turn a `UserError` into one line on stderr and exit code 2.

    So is the error of a path that may not be used, or is too long.

    Characters that stdout's encoding lacks are escaped, as on stderr.

    After a signal the exit code is the shell's usual one (130 for Ctrl-C), without a traceback. If
    the reader of stdout has closed it, as `head` does, the exit code is 141.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            main()
        finally:
            if sys.stdout is not None:  # None: the process has no stdout
                sys.stdout.flush()
    except UserError as error:
        report(error)
        if isinstance(error, NoSpace):
            # threads and exit handlers of libraries would each report the full disk once more
            os._exit(error.exit_code)
        sys.exit(error.exit_code)
    except Stopped as stopped:
        print("stopped", file=sys.stderr)
        sys.exit(128 + stopped.signal)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # Python flushes the buffer when it ends: send the rest to /dev/null
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if error.filename is None and is_no_space(error):
            report(NoSpace("no space left for the output"))
            os._exit(NoSpace.exit_code)  # the flush at the exit would fail once more
        if error.errno not in OF_PATHS or error.filename is None:
            raise
        report(UserError(f"cannot use {os.fsdecode(error.filename)}: {error.strerror}"))
        sys.exit(UserError.exit_code)
