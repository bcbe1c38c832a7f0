"""The progress of a run on the screen: a progress bar, and a line for each task."""

import contextlib
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class _Console(Console):
    """A console that goes on when its reader has gone."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class Display:
    """A progress bar over the optimiser steps of the current stage, and lines above it.

    Args:
      quiet: show nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._console = _Console(stderr=True, highlight=False, quiet=quiet)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
            console=self._console,
            transient=True,
            disable=quiet or not self._console.is_terminal,
        )
        self._bar = self._progress.add_task("", total=None, detail="")

    def __enter__(self) -> "Display":
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def line(self, text: str) -> None:
        """Print a permanent line above the bar."""
        with contextlib.suppress(OSError):  # the terminal is gone; the log file has everything
            self._progress.console.print(text, soft_wrap=True)

    def stage(self, name: str, steps: int) -> None:
        """Start the bar of a stage."""
        self._progress.reset(self._bar, total=steps, description=name, detail="")

    def step(self, done: int, detail: str) -> None:
        """Move the bar."""
        self._progress.update(self._bar, completed=done, detail=detail)
