"""The progress of a run on the screen: bars on a terminal, lines elsewhere."""

import contextlib
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
from rich.progress import Task as Bar
from rich.table import Column
from rich.text import Text

from bsce_jax.errors import shown
from bsce_jax.training import compiler
from bsce_jax.training.clock import in_words
from bsce_jax.training.forecast import Left

SECONDS = 5.0  # between two lines for epochs, at least
TRAINING_STEP = "chunk"  # is in the name of its program


class _Console(Console):
    """A console that goes on when its reader has gone."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class _Detail(ProgressColumn):
    """The detail of a bar; of the first one, while XLA compiles, that it does."""

    def render(self, task: Bar) -> Text:
        compiling = task.id == 0 and compiler.clock.compiling is not None
        return Text("compiling" if compiling else task.fields["detail"])


class Display:
    """The progress of a run, on stderr.

    On a terminal it has a bar for the present stage and one for the run. Elsewhere it has a line
    for each epoch, but not more than one in a few seconds.

    Args:
      quiet: show nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._console = _Console(stderr=True, highlight=False, quiet=quiet)
        self._live = self._console.is_terminal and not self._console.is_dumb_terminal
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            _Detail(Column(no_wrap=True)),
            console=self._console,
            transient=True,
            expand=True,
            disable=quiet or not self._live,
        )
        self._stage = self._bars.add_task("", total=None, visible=False, detail="")
        self._run = self._bars.add_task("run", total=None, visible=False, detail="")
        self._name = ""
        self._epochs, self._epoch_steps = 1, 1
        self._shown, self._shown_at = 0, time.monotonic()  # the epoch of the last line

    def __enter__(self) -> "Display":
        compiler.clock.watch = self._compiling
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()
        compiler.clock.watch = None

    def line(self, text: str) -> None:
        """Print a permanent line above the bars."""
        with contextlib.suppress(OSError):  # the terminal is gone; the log file has everything
            self._bars.console.print(shown(text), soft_wrap=True, markup=False)

    def stage(
        self, task: int, tasks: int, name: str, epochs: int, epoch_steps: int, done: int
    ) -> None:
        """Start a stage.

        Args:
          task: number of its task, from 0.
          tasks: of the run.
          name: of the stage.
          epochs: of the stage.
          epoch_steps: steps of an epoch.
          done: steps that an earlier process did.
        """
        self._name = f"task {task + 1}/{tasks}, {name}"
        self._epochs, self._epoch_steps = epochs, epoch_steps
        self._shown = done // epoch_steps
        total = epochs * epoch_steps
        self._bars.update(
            self._stage,
            total=total,
            completed=done,
            description=self._name,
            visible=True,
            detail="",
        )
        self._bars.update(
            self._run, total=tasks, completed=task, visible=True, detail=f"{task}/{tasks} tasks"
        )

    def steps(self, done: int, loss: float, left: Left) -> None:
        """Show how far the stage is.

        Args:
          done: its steps so far.
          loss: mean over the last steps.
          left: the time left.
        """
        epoch, now = done // self._epoch_steps, time.monotonic()
        time_left = "" if left.task is None else f", {in_words(left.task)} left"
        if self._live:
            present = min(epoch + 1, self._epochs)
            detail = f"epoch {present}/{self._epochs}, loss {loss:.3f}{time_left}"
            self._bars.update(self._stage, completed=done, detail=detail)
            if left.run is not None:
                self._bars.update(self._run, detail=f"{in_words(left.run)} left")
        elif epoch > self._shown and now - self._shown_at >= SECONDS:
            self._shown, self._shown_at = epoch, now
            if left.run is not None:
                time_left += f" (run: {in_words(left.run)})"
            self.line(f"{self._name}, epoch {epoch}/{self._epochs}, loss {loss:.3f}{time_left}")

    def doing(self, what: str) -> None:
        """Show what is done between two stages."""
        self._bars.update(self._stage, detail=what)

    def _compiling(self, program: str) -> None:
        if not self._live and TRAINING_STEP in program:
            self.line("compiling the training step, or loading it from the cache")
