"""Stop requests: the first Ctrl-C, SIGTERM or SIGHUP is recorded, a second has its usual effect."""

import signal
import threading
from types import FrameType, TracebackType

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the last: the terminal is gone


class StopRequest:
    """A context that records the first SIGINT, SIGTERM or SIGHUP in `requested`.

    A second signal has the effect it has outside the context. A signal that is ignored stays so:
    that is how nohup keeps a run when its terminal is closed. In other threads than the main one
    the context does nothing, since Python handles signals only in the main thread.

    Attributes:
      requested: the signal received, None if there was none.
    """

    def __init__(self) -> None:
        self.requested: signal.Signals | None = None
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopRequest":
        main = threading.current_thread() is threading.main_thread()
        for kind in STOPS if main else ():
            if signal.getsignal(kind) != signal.SIG_IGN:
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
            signal.signal(kind, handler)  # type: ignore[arg-type]  # it came from signal()
