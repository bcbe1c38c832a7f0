"""The time of a run, by kind of work."""

import contextlib
import time
from collections.abc import Iterator

from bsce_jax.training import compiler


class Clock:
    """Adds up seconds by kind of work; each second counts once, for the innermost kind.

    Attributes:
      seconds: by kind, so far; XLA's compiling is a separate kind, `compile`.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._kinds: list[str] = []
        self._time, self._compiled = time.perf_counter(), compiler.clock.seconds

    @contextlib.contextmanager
    def __call__(self, kind: str) -> Iterator[None]:
        """Count the time inside the block for a kind of work, and not for the enclosing kind."""
        self._charge()
        self._kinds.append(kind)
        try:
            yield
        finally:
            self._charge()
            self._kinds.pop()

    def restart(self, seconds: dict[str, float]) -> None:
        """Continue from earlier counts."""
        self.seconds = dict(seconds)

    def _charge(self) -> None:
        now, compiled = time.perf_counter(), compiler.clock.seconds
        if self._kinds:
            compiling = compiled - self._compiled
            self._add(self._kinds[-1], now - self._time - compiling)
            self._add("compile", compiling)
        self._time, self._compiled = now, compiled

    def _add(self, kind: str, seconds: float) -> None:
        self.seconds[kind] = self.seconds.get(kind, 0.0) + seconds


def in_words(seconds: float) -> str:
    """Write a duration for people, such as "45 s", "3 min 20 s", "1 h 12 min" or "2 d 3 h"."""
    for small, large, step in (("s", "min", 60), ("min", "h", 60), ("h", "d", 24)):
        count = round(seconds)
        if count < step:
            return f"{count} {small}"
        if count < 10 * step or large == "d":
            return f"{count // step} {large} {count % step} {small}"
        seconds /= step
    raise AssertionError
