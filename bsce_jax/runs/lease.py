"""The lock of a run in a bucket: an object that says who trains, with a sign of life."""

import contextlib
import datetime
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable

from bsce_jax.errors import UserError
from bsce_jax.runs import bucket

BEAT = 10.0  # seconds between two signs of life
LAPSE = 60.0  # seconds without one after which a lock is of a process that is gone


class Lease:
    """The lock of a run in a bucket, held by this process.

    Exactly one process can make the object, since the service compares and writes in one step. The
    holder changes the object's metadata as a sign of life. Others measure by their own clock how
    long it stays the same: no clocks are compared. A lock that lapsed is replaced in one step too.

    Args:
      objects: of the run.
      say: called with a line of text before waiting for a sign of life.

    Raises:
      UserError: another process holds the lock.
    """

    def __init__(self, objects: bucket.Objects, say: Callable[[str], None]):
        self._objects = objects
        self._who = f"process {os.getpid()} of {socket.gethostname()}\n{uuid.uuid4().hex}"
        while (generation := self._make()) is None:
            self._wait_for_lapse(say)
        self._generation = generation
        self._released = threading.Event()
        threading.Thread(target=self._live, daemon=True).start()

    def check(self) -> None:
        """Give a sign of life, which fails if the lock is gone.

        Raises:
          UserError: it was removed, or another process replaced it.
        """
        from google.api_core.exceptions import NotFound, PreconditionFailed

        with self._objects.blob(bucket.LOCK) as blob:
            now = datetime.datetime.now(datetime.UTC)
            blob.metadata = {"alive": now.isoformat(timespec="milliseconds")}
            try:
                blob.patch(if_generation_match=self._generation, retry=bucket.retry())
            except (NotFound, PreconditionFailed):
                raise UserError(
                    f"{self._objects.url}/{bucket.LOCK} was removed or replaced while this process "
                    "was training: make sure that no other process trains there, and give the same "
                    "command"
                ) from None

    def release(self) -> None:
        """Remove the lock; if the bucket cannot be reached, it lapses."""
        self._released.set()
        with contextlib.suppress(bucket.Unreachable):
            self._delete(if_generation_match=self._generation)

    def _live(self) -> None:
        while not self._released.wait(BEAT):
            with contextlib.suppress(UserError):  # `check` says it before the next save
                self.check()

    def _make(self) -> int | None:
        """Make the object and return its generation; None if there is one."""
        from google.api_core.exceptions import PreconditionFailed

        with self._objects.blob(bucket.LOCK) as blob:
            try:
                blob.upload_from_string(self._who, if_generation_match=0, retry=bucket.retry())
            except PreconditionFailed:
                there = self._read()
                # the request was repeated after its first answer was lost
                return there[0] if there and there[2] == self._who else None
            return int(blob.generation)

    def _read(self) -> tuple[int, int, str] | None:
        """Read the generation, the metageneration and the holder of the lock; None without one."""
        from google.api_core.exceptions import NotFound

        with self._objects.blob(bucket.LOCK) as blob, contextlib.suppress(NotFound):
            who = blob.download_as_bytes().decode(errors="replace")
            blob.reload()
            return int(blob.generation), int(blob.metageneration), who
        return None

    def _wait_for_lapse(self, say: Callable[[str], None]) -> None:
        """Wait until the lock is gone; remove it after a time without a sign of life."""
        first = self._read()
        if first is None:
            return
        url, holder = self._objects.url, first[2].partition("\n")[0]
        say(f"{url} is locked by {holder}: waiting {LAPSE:.0f} s for a sign of life")
        begun = time.monotonic()
        while time.monotonic() - begun < LAPSE:
            time.sleep(BEAT / 4)
            there = self._read()
            if there is None:
                return
            if there[:2] != first[:2]:
                raise UserError(
                    f"another process is training in {url}, {holder}: wait for it, or choose "
                    "another --workdir"
                )
        self._delete(if_generation_match=first[0], if_metageneration_match=first[1])

    def _delete(self, **conditions: int) -> None:
        """Remove the object if it is as the conditions say."""
        from google.api_core.exceptions import NotFound, PreconditionFailed

        gone = contextlib.suppress(NotFound, PreconditionFailed)
        with self._objects.blob(bucket.LOCK) as blob, gone:
            blob.delete(**conditions, retry=bucket.retry())
