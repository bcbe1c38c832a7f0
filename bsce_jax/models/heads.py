"""Heads of full width: all classes of the scenario from the start.

Every parameter of a class has the class as its leading axis; what is shared by all is a scalar.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Initializer

LSC_PROXIES = 10  # class vectors a class, as in PODNet


class Scores(NamedTuple):
    """Scores [batch, C], logits [batch, C] and the learned scale []."""

    scores: jax.Array
    logits: jax.Array
    scale: jax.Array


class LinearHead(nn.Module):
    """logits = W f + b.

    Attributes:
      num_classes: of the whole scenario.
    """

    num_classes: int

    @nn.compact
    def __call__(self, features: jax.Array) -> Scores:
        dim = features.shape[-1]
        weight = self.param("weight", _uniform(dim), (self.num_classes, dim), jnp.float32)
        bias = self.param("bias", _uniform(dim), (self.num_classes,), jnp.float32)
        logits = features @ weight.T + bias
        return Scores(logits, logits, jnp.ones(()))


class CosineHead(nn.Module):
    """logits = scale cos(f, w), one learned scale (LUCIR, Hou et al. 2019, equation 4).

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


class LSCHead(nn.Module):
    """Local similarity classifier (PODNet, Douillard et al. 2020, section 3.2).

    A class has several proxies; its score is the sum of the cosines to them, each weighted by the
    softmax over the same cosines.

    Attributes:
      num_classes: of the whole scenario.
    """

    num_classes: int

    @nn.compact
    def __call__(self, features: jax.Array) -> Scores:
        dim = features.shape[-1]
        shape = (self.num_classes, LSC_PROXIES, dim)
        weight = self.param("weight", _uniform(dim), shape, jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (), jnp.float32)
        cosines = jnp.einsum("bd,ckd->bck", _unit(features), _unit(weight))
        scores = jnp.sum(jax.nn.softmax(cosines, axis=-1) * cosines, axis=-1)
        return Scores(scores, scale * scores, scale)


def _uniform(dim: int) -> Initializer:
    """The initialisation of PyTorch's linear layers: uniform within 1 / sqrt(dim)."""
    bound = 1 / math.sqrt(dim)
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


def _unit(x: jax.Array) -> jax.Array:
    """Normalises the last axis; a vector shorter than 1e-12 is left as it is, with gradient 1."""
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.where(square > 1e-24, square, 1.0))
