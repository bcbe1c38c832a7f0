"""A program: every loss with its batch over two devices of an Explicit mesh, saved as one npz."""

import sys

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from loss_cases import arguments, everything

mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))
args = jax.device_put(arguments(), NamedSharding(mesh, PartitionSpec("data")))
results = everything(args)
value, gradient = results["cross_entropy"]
assert value.sharding.spec[0] == gradient.sharding.spec[0] == "data"
with jax.set_mesh(mesh):
    jax.tree.map(np.testing.assert_array_equal, everything(args), results)
np.savez(sys.argv[1], **{f"{name}/{i}": x for name in results for i, x in enumerate(results[name])})
