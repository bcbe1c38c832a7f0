"""Looking at images through a model: features and logits, batched, un-augmented, in eval mode."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bsce_jax.methods.base import ModelState
from bsce_jax.models import Classifier, evaluate
from bsce_jax.training import compiler
from bsce_jax.training import mesh as mesh_lib

BATCH = 512  # images a device looks at together: bounds the memory

# (model, images [n, h, w, c] uint8, indices [batch], mirrored []) -> features, logits
Forward = Callable[[ModelState, jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def make_forward(network: Classifier, normalize: Callable[[jax.Array], jax.Array]) -> Forward:
    """Compiles the forward pass that every look goes through."""

    @functools.partial(jax.jit, compiler_options=compiler.options(jax.default_backend()))
    def forward(
        model: ModelState, images: jax.Array, indices: jax.Array, mirrored: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        batch = images[indices]
        batch = jnp.where(mirrored, batch[:, :, ::-1], batch)
        outputs = evaluate(network, model.variables, normalize(batch))
        return outputs.features, outputs.logits

    return forward


class Eye:
    """Looks at one split of the data; the `Probe` that methods are given.

    Args:
      network: what is looked through.
      normalize: uint8 images to float32 ones, as the network expects them.
      forward: from `make_forward`, of this network.
      images: [n, h, w, c] uint8, on every device.
      mesh: the devices.
      initial: the state that the run began with.
    """

    def __init__(
        self,
        network: Classifier,
        normalize: Callable[[jax.Array], jax.Array],
        forward: Forward,
        images: jax.Array,
        mesh: Mesh,
        initial: ModelState,
    ):
        self.network = network
        self.initial = initial
        self._normalize = normalize
        self._forward = forward
        self._images = images
        self._mesh = mesh
        self._batch = BATCH * mesh.size

    def images(self, indices: np.ndarray) -> jax.Array:
        """Returns the normalised images of some records, [n, height, width, channels] float32."""
        return self._normalize(self._images[np.asarray(indices, np.int32)])

    def look(
        self, model: ModelState, indices: np.ndarray, mirrored: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the features [n, D] and the logits [n, C] of some records, float32."""
        indices = np.asarray(indices, np.int32)
        parts = []
        for start in range(0, len(indices), self._batch):
            # one shape only: a short batch is filled up by repeating it
            part = np.resize(indices[start : start + self._batch], self._batch)
            batch = mesh_lib.split(self._mesh, part, axis=0)
            parts.append(self._forward(model, self._images, batch, jnp.asarray(mirrored)))
        features, logits = (np.concatenate(p)[: len(indices)] for p in zip(*parts, strict=True))
        return features, logits

    def features(
        self, model: ModelState, indices: np.ndarray, mirrored: bool = False
    ) -> np.ndarray:
        """Returns the features of some records, [n, D] float32."""
        return self.look(model, indices, mirrored)[0]

    def logits(self, model: ModelState, indices: np.ndarray) -> np.ndarray:
        """Returns the logits of some records, [n, C] float32."""
        return self.look(model, indices)[1]
