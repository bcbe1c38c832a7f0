"""The devices: a mesh with one axis, `data`; batches are split over it, the rest is replicated."""

import contextlib
import os
from collections.abc import Iterator
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bsce_jax.errors import UserError

Tree = TypeVar("Tree")


def count_devices() -> int:
    """Count the devices.

    Raises:
      UserError: jax cannot use what `JAX_PLATFORMS` names.
    """
    try:
        return jax.device_count()
    except (AssertionError, RuntimeError) as error:  # without a plugin for it jax only asserts
        wanted = os.environ.get("JAX_PLATFORMS", "")
        reason = str(error) or "it finds no such device"
        raise UserError(f"jax cannot use JAX_PLATFORMS={wanted}: {reason}") from error


def make_mesh() -> Mesh:
    """Make the mesh of all devices."""
    return jax.make_mesh((count_devices(),), ("data",), axis_types=(AxisType.Auto,))


@contextlib.contextmanager
def needing_memory(batch_size: int) -> Iterator[None]:
    """Turn the errors of a full memory, of a device or of the host, into a `UserError`."""
    words = ("RESOURCE_EXHAUSTED", "can't start new thread")  # of jax, of Python
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or any(text in str(error) for text in words):
            raise UserError(
                f"out of memory with train.batch_size={batch_size}: try a smaller one, a smaller "
                "dataset.image_size or runtime.dtype=bfloat16"
            ) from error
        raise


def replicated(mesh: Mesh) -> NamedSharding:
    """Make the sharding of a replicated array."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(mesh: Mesh, tree: Tree) -> Tree:
    """Replicate every array on all devices, of all processes; each process has the same values."""
    sharding = replicated(mesh)
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def put(value: jax.Array | np.ndarray) -> jax.Array:
        if isinstance(value, jax.Array) and not value.is_fully_addressable:
            return value
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(value)))
        array = np.asarray(value)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(put, tree)


def split(mesh: Mesh, array: np.ndarray, axis: int) -> jax.Array:
    """Split one axis of an array over the devices; each process sends its own share."""
    spec = PartitionSpec(*[None] * axis, "data")
    sharding = NamedSharding(mesh, spec)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
