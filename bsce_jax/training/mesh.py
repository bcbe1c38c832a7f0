"""The devices: one mesh with one axis, `data`. Batches are split over it, all else is on each."""

from typing import TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

Tree = TypeVar("Tree")


def make_mesh() -> Mesh:
    """Makes the mesh of all devices."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicate(mesh: Mesh, tree: Tree) -> Tree:
    """Puts a copy of every array on each device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def split(mesh: Mesh, array: np.ndarray, axis: int) -> jax.Array:
    """Splits one axis of an array over the devices."""
    spec = PartitionSpec(*[None] * axis, "data")
    return jax.device_put(array, NamedSharding(mesh, spec))
