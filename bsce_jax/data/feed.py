"""Feeds bring the images of a plan to the devices: the protocol, and the resident feed."""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bsce_jax.data.source import Source
from bsce_jax.registry import Registry


class Feed(Protocol):
    """Brings the images of records to the devices; the compiled step reads images only through it.

    Attributes:
      constants: arrays on the devices, passed to compiled functions as a separate argument.
      record_bytes: bytes that `put` sends for a record; they bound how much is sent at a time.
    """

    @property
    def constants(self) -> Any: ...

    @property
    def record_bytes(self) -> int: ...

    def put(self, records: np.ndarray) -> Any:
        """Send the data from which the devices make the images of some records.

        Args:
          records: int [..., batch]; the last axis is split over the devices.

        Returns:
          Arrays with the same leading axes, over which `jax.lax.scan` may run.
        """

    def images(self, constants: Any, row: Any) -> jax.Array:
        """Make the images of a row, traced: uint8 [batch, height, width, channels].

        Args:
          constants: the attribute `constants`.
          row: what `put` returned for [batch] records, or one step of it in a scan.
        """


# (source, all records that `put` may get, devices) -> feed
FEEDS: Registry[Callable[[Source, np.ndarray, Mesh], Feed]] = Registry("feed")


@FEEDS.register("resident")
class ResidentFeed:
    """Keeps the images in device memory, so that only indices are sent.

    Args:
      source: of the images.
      records: all records that `put` may get, int [m]; no others are read.
      mesh: the devices; the images are replicated on each.
    """

    record_bytes = 4  # an index

    def __init__(self, source: Source, records: np.ndarray, mesh: Mesh):
        self._mesh = mesh
        self._place = np.full(len(source.labels), -1, np.int32)
        self._place[records] = np.arange(len(records), dtype=np.int32)
        everywhere = NamedSharding(mesh, PartitionSpec())
        images = source.images(records)
        self.constants: jax.Array = jax.make_array_from_callback(
            images.shape, everywhere, lambda index: images[index]
        )

    def put(self, records: np.ndarray) -> jax.Array:
        places = self._place[records]
        spec = PartitionSpec(*[None] * (places.ndim - 1), "data")
        sharding = NamedSharding(self._mesh, spec)
        return jax.make_array_from_callback(places.shape, sharding, lambda index: places[index])

    def images(self, constants: jax.Array, row: jax.Array) -> jax.Array:
        return constants[row]
