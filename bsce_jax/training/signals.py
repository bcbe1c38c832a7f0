"""Stopping on request: the first Ctrl-C or SIGTERM asks, a second one insists."""

import signal
from types import FrameType, TracebackType


class StopRequest:
    """While entered, turns the first SIGINT or SIGTERM into `requested`.

    A second signal does what it would have done without this.

    Attributes:
      requested: the signal that came, None if none did.
    """

    def __init__(self) -> None:
        self.requested: signal.Signals | None = None
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopRequest":
        for kind in (signal.SIGINT, signal.SIGTERM):
            self._previous[kind] = signal.signal(kind, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for kind, handler in self._previous.items():
            signal.signal(kind, handler)  # type: ignore[arg-type]  # what signal() itself returned
