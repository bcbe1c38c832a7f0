"""Features and logits of records: batched, without augmentation, in inference mode."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bsce_jax.data.feed import Feed
from bsce_jax.methods import Method, ModelState
from bsce_jax.models import Classifier, infer
from bsce_jax.training import compiler
from bsce_jax.training import mesh as mesh_lib

BATCH = 512  # images in one forward pass of a device: bounds the memory

Normalize = Callable[[jax.Array], jax.Array]
# (model, constants of the feed, row, mirrored []) -> features, logits
Forward = Callable[[ModelState, Any, Any, jax.Array], tuple[jax.Array, jax.Array]]


def make_forward(network: Classifier, feed: Feed, normalize: Normalize, mesh: Mesh) -> Forward:
    """Compile the forward pass of a probe."""

    # replicated, so that every process has all of them
    @functools.partial(
        jax.jit,
        out_shardings=mesh_lib.replicated(mesh),
        compiler_options=compiler.options(jax.default_backend()),
    )
    def forward(
        model: ModelState, constants: Any, row: Any, mirrored: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        batch = feed.images(constants, row)
        batch = jnp.where(mirrored, batch[:, :, ::-1], batch)
        outputs = infer(network, model.variables, normalize(batch))
        return outputs.features, outputs.logits

    return forward


class FeedProbe:
    """Computes features and logits of the records of one split, read through a feed.

    Args:
      network: whose outputs are computed.
      feed: of the split.
      normalize: uint8 images to float32 ones, as the network expects them.
      mesh: the devices.
      initial: makes a model without training; see `Probe.initial`.
    """

    def __init__(
        self,
        network: Classifier,
        feed: Feed,
        normalize: Normalize,
        mesh: Mesh,
        initial: Callable[[], ModelState],
    ):
        self.network = network
        self._feed = feed
        self._normalize = normalize
        self._initial = initial
        self._forward = make_forward(network, feed, normalize, mesh)
        self._batch = BATCH * mesh.size

    @property
    def initial(self) -> ModelState:
        """The model as the run's seed initialises it, with the backbone of `model.init`."""
        return self._initial()

    def images(self, records: np.ndarray) -> jax.Array:
        """Read normalised images, [n, height, width, channels] float32, all at once."""
        devices = self._batch // BATCH
        # filled up by repeating, since the devices share them equally
        row = self._feed.put(np.resize(records, math.ceil(len(records) / devices) * devices))
        return self._normalize(self._feed.images(self._feed.constants, row))[: len(records)]

    def outputs(
        self, model: ModelState, records: np.ndarray, mirrored: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Compute the features [n, D] and the logits [n, C] of n > 0 records, float32."""
        parts: list[tuple[np.ndarray, np.ndarray]] = []
        waiting: tuple[jax.Array, jax.Array] | None = None
        for start in range(0, len(records), self._batch):
            # a short batch is filled up by repeating it, so that there is one shape
            part = np.resize(records[start : start + self._batch], self._batch)
            row = self._feed.put(part)
            sent = self._forward(model, self._feed.constants, row, jnp.asarray(mirrored))
            if waiting is not None:  # at most two batches are on the devices
                parts.append(_fetch(waiting))
            waiting = sent
        assert waiting is not None  # n > 0
        parts.append(_fetch(waiting))
        features, logits = (np.concatenate(p)[: len(records)] for p in zip(*parts, strict=True))
        return features, logits

    def features(
        self, model: ModelState, records: np.ndarray, mirrored: bool = False
    ) -> np.ndarray:
        """Compute the features of records, mirrored left to right or not, [n, D] float32."""
        return self.outputs(model, records, mirrored)[0]

    def logits(self, model: ModelState, records: np.ndarray) -> np.ndarray:
        """Compute the logits of records, [n, C] float32."""
        return self.outputs(model, records)[1]


def _fetch(outputs: tuple[jax.Array, jax.Array]) -> tuple[np.ndarray, np.ndarray]:
    features, logits = outputs
    return np.asarray(features), np.asarray(logits)


def initialize(
    network: Classifier,
    method: Method,
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    seed: int,
    mesh: Mesh,
) -> ModelState:
    """Initialise a network with a run's seed, replicated on every device."""
    # jitted, so that it compiles once and not layer by layer; hardly optimised, since it runs once.
    # At level 0 jaxlib 0.10.2 compiles some programs (a PODNet step is one) to other results.
    init = jax.jit(
        lambda key: network.init(key, jnp.zeros((1, *image_shape)), train=False),
        compiler_options={"xla_backend_optimization_level": 1},
    )
    variables = init(jax.random.key(seed))
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    extra = method.init_extra(params, num_classes)
    model = ModelState(params=params, batch_stats=batch_stats, extra=extra)
    return mesh_lib.replicate(mesh, model)
