"""Where a run is kept: in its local folder, or in a bucket with a local copy that it works in."""

import concurrent.futures
import contextlib
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator

from bsce_jax import hosts
from bsce_jax.errors import using
from bsce_jax.runs import bucket
from bsce_jax.runs.folder import check_path
from bsce_jax.runs.lease import Lease

CHECKPOINTS = "checkpoints"


class Home:
    """The local folder of a run, which all of its processes share.

    Attributes:
      folder: of the run.
      disk: a folder on its disk, for messages.
      shared: whether all processes of the run use this folder.
    """

    shared = True

    def __init__(self, folder: pathlib.Path):
        self.folder = self.disk = folder

    def keep(self) -> None:
        """Keep what was written, apart from checkpoints."""

    def keep_checkpoints(self) -> None:
        """Keep the checkpoints, which are sealed."""


class Mirror(Home):
    """A local copy of a run in a bucket; each process has its own, and the main one's is kept.

    A file goes to the bucket after those that it describes, and a seal after its checkpoint. What
    is gone is removed last, the seal first. So at any moment the bucket has what a local folder may
    have after a kill. `keep` is called before a checkpoint is saved: a checkpoint in the bucket
    finds there the log and the predictions that belong to it.

    Args:
      objects: of the run, copied to `folder`.
      folder: the copy.
      lease: the lock of the run; None in other processes than the main one.
    """

    shared = False

    def __init__(self, objects: bucket.Objects, folder: pathlib.Path, lease: Lease | None):
        super().__init__(folder)
        self.disk = pathlib.Path(tempfile.gettempdir())
        self._objects, self._lease = objects, lease
        # what the bucket has; checkpoints are kept by another thread
        self._kept = {part: self._files(part) for part in (False, True)}

    def keep(self) -> None:
        """Copy what was written to the bucket, apart from checkpoints.

        Raises:
          UserError: the lock is gone.
          Unreachable: the bucket cannot be reached.
        """
        self._keep(checkpoints=False)

    def keep_checkpoints(self) -> None:
        """Copy the sealed checkpoints to the bucket.

        Raises:
          UserError, Unreachable: as `keep`.
        """
        self._keep(checkpoints=True)

    def _keep(self, checkpoints: bool) -> None:
        if self._lease is None:
            return
        self._lease.check()
        kept, there = self._kept[checkpoints], self._files(checkpoints)
        for rank in range(3):
            new = [n for n in there if kept.get(n) != there[n] and _rank(n) == rank]
            self._objects.upload(new, self.folder)
            kept.update({name: there[name] for name in new})
        with concurrent.futures.ThreadPoolExecutor(bucket.THREADS) as pool:
            for rank in reversed(range(3)):
                gone = [n for n in kept if n not in there and _rank(n) == rank]
                for name, _ in zip(gone, pool.map(self._objects.remove, gone), strict=True):
                    del kept[name]

    def _files(self, checkpoints: bool) -> dict[str, tuple[int, ...]]:
        """List the files with what changes when they are written."""
        found: dict[str, tuple[int, ...]] = {}
        for part in self.folder.iterdir():
            # the folder of checkpoints is not to be looked at while one is saved
            if part.name == bucket.LOCK or (part.name == CHECKPOINTS) != checkpoints:
                continue
            for path in (part, *part.rglob("*")):
                if path.is_file() and path.suffix != ".partial":  # which a kill may have left
                    seen = path.stat()
                    name = path.relative_to(self.folder).as_posix()
                    found[name] = (seen.st_ino, seen.st_mtime_ns, seen.st_size)
        return found


@contextlib.contextmanager
def opened(
    folder: str | os.PathLike[str], say: Callable[[str], None] = lambda text: None
) -> Iterator[Home]:
    """Open the folder of a run to train in; one in a bucket is locked and copied.

    What was written is kept at the end, unless there was an error.

    Args:
      folder: of the run, local or gs://BUCKET/RUN.
      say: called with a line of text before waiting for another process.

    Raises:
      UserError: the bucket cannot be used, or another process trains there.
      Unreachable: it cannot be reached.
    """
    if not bucket.is_remote(folder):
        yield Home(check_path(folder))
        return
    with contextlib.ExitStack() as stack:
        objects = stack.enter_context(contextlib.closing(bucket.Objects(folder)))
        stack.enter_context(using(tempfile.gettempdir()))
        lease = None
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            locking = pool.submit(Lease, objects, say) if hosts.is_main() else None
            hosts.wait_for_main(lambda: locking is not None and locking.done())
            if locking is not None:
                lease = locking.result()
                stack.callback(lease.release)
        copy = bucket.Local(folder, lambda name: not name.startswith("tensorboard/"))
        stack.callback(copy.remove)
        hosts.barrier("copied")  # before the main process alters what the others read
        home = Mirror(objects, copy.folder, lease)
        yield home
        home.keep()


def _rank(name: str) -> int:
    """Order the files: seals after descriptions after what these describe."""
    return 2 if name.endswith(".sealed") else int(name.endswith(".json"))
