"""What a person watches while a run is on: a progress bar, and a line for each task."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Display:
    """A progress bar over the optimiser steps of the task in hand, and lines above it."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
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
        """Prints a line that stays."""
        self._progress.console.print(text, soft_wrap=True)

    def stage(self, name: str, steps: int) -> None:
        """Starts the bar of a stage."""
        self._progress.reset(self._bar, total=steps, description=name, detail="")

    def step(self, done: int, detail: str) -> None:
        """Moves the bar."""
        self._progress.update(self._bar, completed=done, detail=detail)
