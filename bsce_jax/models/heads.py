"""Heads of full width: all classes of the scenario from the start.

The leading axis of a parameter is the class. A parameter that all classes share is a scalar.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Initializer

from bsce_jax.models.names import HEADS

LSC_PROXIES = 10  # for each class, as in PODNet


class Scores(NamedTuple):
    """Scores [batch, C], logits [batch, C] and the learned scale []."""

    scores: jax.Array
    logits: jax.Array
    scale: jax.Array


@HEADS.register("linear")
class LinearHead(nn.Module):
    """Linear head: logits W f + b.

    Attributes:
      num_classes: of the whole scenario.
      branches: how many branches the features are of; the initial values are those of a head on
        one, whose size does not depend on how many follow.
    """

    num_classes: int
    branches: int = 1

    @nn.compact
    def __call__(self, features: jax.Array) -> Scores:
        dim = features.shape[-1]
        start = _uniform(dim // self.branches)
        weight = self.param("weight", start, (self.num_classes, dim), jnp.float32)
        bias = self.param("bias", start, (self.num_classes,), jnp.float32)
        logits = features @ weight.T + bias[None]
        return Scores(logits, logits, jnp.ones(()))


@HEADS.register("cosine")
class CosineHead(nn.Module):
    """Cosine head: logits scale * cos(f, w), one learned scale (LUCIR, Hou et al. 2019, eq. 4).

    Attributes:
      num_classes: of the whole scenario.
    """

    num_classes: int

    @nn.compact
    def __call__(self, features: jax.Array) -> Scores:
        dim = features.shape[-1]
        weight = self.param("weight", _uniform(dim), (self.num_classes, dim), jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (), jnp.float32)
        cosines = _unit(features) @ _unit(weight).T
        return Scores(cosines, scale * cosines, scale)


@HEADS.register("lsc")
class LSCHead(nn.Module):
    """Local similarity classifier of PODNet's paper (Douillard et al. 2020, section 3.2).

    A class has several proxies. Its score is the sum of the cosines to them, weighted by the
    softmax over these cosines.

    Attributes:
      num_classes: of the whole scenario.
    """

    num_classes: int

    def similarities(self, cosines: jax.Array) -> jax.Array:
        """Compute the similarities of features and proxies from their cosines."""
        return cosines

    @nn.compact
    def __call__(self, features: jax.Array) -> Scores:
        dim = features.shape[-1]
        shape = (self.num_classes, LSC_PROXIES, dim)
        start = nn.initializers.normal(1 / math.sqrt(dim))  # length about 1, as in PODNet's code
        weight = self.param("weight", start, shape, jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (), jnp.float32)
        cosines = jnp.einsum("bd,ckd->bck", _unit(features), _unit(weight))
        similarities = self.similarities(cosines)
        scores = jnp.sum(jax.nn.softmax(similarities, axis=-1) * similarities, axis=-1)
        return Scores(scores, scale * scores, scale)


@HEADS.register("lsc_distance")
class LSCDistanceHead(LSCHead):
    """Local similarity classifier of PODNet's published code, which gave the published figures.

    It is `LSCHead` with another similarity, also in the softmax over the proxies: the negative
    squared distance of the unit vectors, -|f - w|^2 = 2 cos - 2.

    Attributes:
      num_classes: of the whole scenario.
    """

    def similarities(self, cosines: jax.Array) -> jax.Array:
        """Compute the negative squared distances from the cosines."""
        return 2 * cosines - 2


def _uniform(dim: int) -> Initializer:
    """Return the initialisation of PyTorch's linear layers: uniform within 1 / sqrt(dim)."""
    bound = 1 / math.sqrt(dim)
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


def _unit(x: jax.Array) -> jax.Array:
    """Normalise the last axis; a vector shorter than 1e-12 is unchanged, with gradient 1."""
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.where(square > 1e-24, square, 1.0))
