"""The devices: a mesh with one axis, `data`; batches are split over it, the rest is replicated."""

import os
from typing import TypeVar

import jax
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


def replicated(mesh: Mesh) -> NamedSharding:
    """Make the sharding of a replicated array."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(mesh: Mesh, tree: Tree) -> Tree:
    """Replicate every array on all devices."""
    return jax.device_put(tree, replicated(mesh))


def split(mesh: Mesh, array: np.ndarray, axis: int) -> jax.Array:
    """Split one axis of an array over the devices."""
    spec = PartitionSpec(*[None] * axis, "data")
    return jax.device_put(array, NamedSharding(mesh, spec))
