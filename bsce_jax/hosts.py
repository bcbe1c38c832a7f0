"""The processes of a run: one on each host, started with the same command.

All processes do the same work on the same plan; each has its share of every batch. The main process
alone writes files and prints. Nothing here does anything in a run of one process.
"""

import contextlib
import hashlib
import importlib.util
import os
import pathlib
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bsce_jax.errors import UserError, report

Tree = TypeVar("Tree")

HEARTBEAT = 30  # seconds without a sign of life after which a process counts as dead


def initialize(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Connect the processes of a run, before anything uses a device.

    In a SLURM job and on a TPU slice they find each other. Elsewhere all three arguments are given.

    Args:
      coordinator: HOST:PORT of process 0, at which the others look for it.
      processes: how many there are.
      process: the number of this one, from 0.

    Raises:
      UserError: some of the arguments are missing or invalid, or the others cannot be reached.
    """
    given = (coordinator, processes, process)
    if given == (None, None, None):
        if not _finds_others():
            return
    elif coordinator is None or processes is None or process is None:
        raise UserError("give --coordinator, --processes and --process together, or none of them")
    elif not 0 <= process < processes:
        raise UserError(f"--process is {process}: it must be 0 to {processes - 1}")
    elif not coordinator.rpartition(":")[2].isdecimal():
        raise UserError(f"--coordinator is {coordinator!r}: it must be HOST:PORT")
    elif processes == 1:
        return
    try:
        jax.distributed.initialize(
            coordinator, processes, process, heartbeat_timeout_seconds=HEARTBEAT
        )
    except (RuntimeError, ValueError) as error:
        first, *_ = str(error).splitlines()
        if coordinator is None and "SLURM_NTASKS" in os.environ:
            first += "; in a SLURM job of several tasks start it by srun"
        raise UserError(f"cannot connect the processes of the run: {first}") from error


def _finds_others() -> bool:
    """Tell whether jax can find other processes: in a SLURM job of several tasks, or on TPUs."""
    if "SLURM_PROCID" in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        return True
    devices = (pathlib.Path("/dev/accel0"), pathlib.Path("/dev/vfio/0"))
    return importlib.util.find_spec("libtpu") is not None and any(d.exists() for d in devices)


def count() -> int:
    """Count the processes."""
    # asking jax for them would start the devices
    return jax.process_count() if jax.distributed.is_initialized() else 1


def is_main() -> bool:
    """Tell whether this process writes files and prints."""
    return count() == 1 or jax.process_index() == 0


def barrier(name: str) -> None:
    """Wait until all processes are here."""
    if count() > 1:
        multihost_utils.sync_global_devices(name)


def wait_for_main(done: Callable[[], bool]) -> None:
    """Wait until something is done in the main process, which takes longer than a barrier may.

    Args:
      done: tells whether it is done, in the main process.
    """
    while count() > 1 and not multihost_utils.broadcast_one_to_all(np.array(done())):
        time.sleep(1)


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """End this process at once after an error, since Python's exit would wait for the others.

    They notice that it is gone: at their next common computation, or by its heartbeat.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if count() == 1:
            raise
        if isinstance(error, KeyboardInterrupt):
            os._exit(130)
        if isinstance(error, UserError):
            report(error)
            os._exit(error.exit_code)
        if isinstance(error, jax.errors.JaxRuntimeError | TimeoutError):  # of common computations
            first, *_ = str(error).splitlines()
            report(UserError(f"process {jax.process_index()} lost another one: {first}"))
            os._exit(1)
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def check_same(what: str, text: str) -> None:
    """Check that all processes have the same text.

    Args:
      what: the text is, for the message.
      text: any.

    Raises:
      UserError: in every process, if one has another text.
    """
    if count() == 1:
        return
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint32)
    digests = multihost_utils.process_allgather(digest)
    different = np.flatnonzero((digests != digests[0]).any(axis=1))
    if len(different):
        raise UserError(f"process {different[0]} has another {what} than process 0")


def of_main(tree: Tree) -> Tree:
    """Give all processes the main one's values of a tree of arrays.

    What numpy computes may differ in its last digits from process to process, by the kind of CPU
    and the number of threads.

    Args:
      tree: of arrays, of the same shapes in all processes.

    Returns:
      The tree as it is in a run of one process, else with numpy's arrays.
    """
    if count() == 1:
        return tree
    there: Tree = multihost_utils.broadcast_one_to_all(jax.tree.map(np.asarray, tree))
    return there


class SharedRequest:
    """Tells all processes at the same call that one of them has something to request.

    The answer comes a call late: it was asked for before the last chunk was sent to the devices, so
    that nobody waits for the chunk.

    Args:
      mesh: the devices.
    """

    def __init__(self, mesh: Mesh):
        self._sharding = NamedSharding(mesh, PartitionSpec("data"))
        self._shape = (mesh.size,)
        everywhere = NamedSharding(mesh, PartitionSpec())
        self._any = jax.jit(jnp.max, out_shardings=everywhere)
        self._asked: jax.Array | None = None

    def __call__(self, own: int) -> int:
        """Return the largest of the processes' numbers at the last call.

        Args:
          own: number of this process, 0 for no request.
        """
        if count() == 1:
            return own
        there = 0 if self._asked is None else int(self._asked)
        number = np.full(self._shape, own, np.int32)
        shared = jax.make_array_from_callback(
            self._shape, self._sharding, lambda index: number[index]
        )
        self._asked = self._any(shared)
        return there
