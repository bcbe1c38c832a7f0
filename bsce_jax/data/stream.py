"""The streamed feed: images are read when their row is sent, and are not kept."""

import math
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bsce_jax.data.feed import FEEDS, Feed, ResidentFeed
from bsce_jax.data.source import CroppingSource, Source

__all__ = ["FEEDS", "StreamedFeed"]  # all feeds, with these

# part of a device's memory, and of the host's, that resident images may take
RESIDENT_SHARE = 0.25


@FEEDS.register("streamed")
class StreamedFeed:
    """Reads the images of each row from the source, each process the share of its devices.

    It has no state of its own: a row is a function of its records.

    Args:
      source: of the images.
      records: all records that `put` may get, int [m]; not used.
      mesh: the devices.
    """

    constants = ()

    def __init__(self, source: Source, records: np.ndarray, mesh: Mesh):
        self._source, self._mesh = source, mesh
        self.record_bytes = math.prod(source.image_shape)

    def put(self, records: np.ndarray) -> jax.Array:
        return self._send(self._source.images, records)

    def put_crops(self, records: np.ndarray, seeds: np.ndarray) -> jax.Array:
        """Send random-resized crops of the images as they are stored.

        Args:
          records: as in `put`.
          seeds: of the crops, of the same shape; see `crops.seeds`.
        """
        assert isinstance(self._source, CroppingSource)  # the problem has checked it
        return self._send(self._source.crops, records, seeds)

    def _send(self, read: Callable[..., np.ndarray], *arguments: np.ndarray) -> jax.Array:
        """Send what is read for each element of some arrays, each process its share."""
        shape = arguments[0].shape
        spec = PartitionSpec(*[None] * (len(shape) - 1), "data")

        def share(index: Any) -> np.ndarray:
            parts = [argument[index[: len(shape)]] for argument in arguments]
            images = read(*(part.reshape(-1) for part in parts))
            return images.reshape(*parts[0].shape, *self._source.image_shape)

        return jax.make_array_from_callback(
            (*shape, *self._source.image_shape), NamedSharding(self._mesh, spec), share
        )

    def images(self, constants: Any, row: jax.Array) -> jax.Array:
        return row


@FEEDS.register("auto")
def choose(source: Source, records: np.ndarray, mesh: Mesh) -> Feed:
    """Make the resident feed if the images fit into the memory of a device and of the host.

    They fit if they take at most a quarter of either.
    """
    size = len(records) * math.prod(source.image_shape)
    fits = size <= RESIDENT_SHARE * min(_host_memory(), *map(_memory, mesh.local_devices))
    return (ResidentFeed if fits else StreamedFeed)(source, records, mesh)


def _memory(device: jax.Device) -> float:
    """Return the memory of a device in bytes; that of the host where a backend does not tell."""
    return (device.memory_stats() or {}).get("bytes_limit", _host_memory())


def _host_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
