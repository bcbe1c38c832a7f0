"""BatchNorm with few passes over its input, since memory traffic limits a training step."""

from dataclasses import field
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp


class BatchNorm(nn.Module):
    """Normalises each channel of [n, h, w, c] over the other axes (Ioffe and Szegedy 2015).

    It has the variables and values of `flax.linen.BatchNorm`, but is more exact if the mean is
    large compared with the deviation. Statistics are float32, and global if the batch is split over
    devices.

    Attributes:
      momentum: of the running statistics, which inference uses.
      epsilon: added to the variance.
      scale: initial value of the learned factors.
      dtype: of the output.
      platform: of the devices, as named by `jax.default_backend`. On "cpu" the backward pass is
        written out, which is faster there and excludes forward-mode differentiation.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    scale: float = 1.0
    dtype: jnp.dtype = jnp.dtype(jnp.float32)
    platform: str = field(default_factory=jax.default_backend)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        channels = x.shape[-1]
        start = nn.initializers.constant(self.scale)
        scale = self.param("scale", start, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        variance = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        if not train:
            y, _ = _apply(x, scale, bias, mean.value, variance.value, self.epsilon)
            return y.astype(self.dtype)
        normalized = _batch_norm_on_cpu if self.platform == "cpu" else batch_norm
        y, of_batch = normalized(x, scale, bias, self.epsilon)
        if not self.is_initializing():
            for running, now in zip((mean, variance), of_batch, strict=True):
                running.value = self.momentum * running.value + (1 - self.momentum) * now
        return y.astype(self.dtype)


Statistics = tuple[jax.Array, jax.Array]


def batch_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, Statistics]:
    """Normalise [n, h, w, c] by its own statistics.

    Returns:
      The output, float32, and the mean and variance [c] of the input. No gradient flows through
      mean and variance.
    """
    mean, variance = _statistics(x)
    y, _ = _apply(x, scale, bias, mean, variance, epsilon)
    return y, jax.lax.stop_gradient((mean, variance))


def _statistics(x: jax.Array) -> Statistics:
    """Compute the mean and the biased variance of each channel, in one pass over the input.

    The variance is the mean of squares minus the square of the mean, and has the rounding error of
    the squares. For squares of the input itself the error could be many times the variance, so the
    first pixel is subtracted before.
    """
    wide = x.astype(jnp.float32)
    first = jax.lax.stop_gradient(wide[:1, :1, :1])
    distance = wide - first
    mean, square = _sums(distance, jnp.square(distance)) / (x.size // x.shape[-1])
    # rounding could make the difference negative
    return first.ravel() + mean, jnp.maximum(0, square - jnp.square(mean))


def _apply(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    epsilon: float,
) -> tuple[jax.Array, jax.Array]:
    inverse = jax.lax.rsqrt(variance + epsilon)
    y = _centred(x, mean) * _to(x, scale * inverse) + _to(x, bias)
    return y, inverse


def _centred(x: jax.Array, mean: jax.Array) -> jax.Array:
    return x.astype(jnp.float32) - _to(x, mean)


def _to(x: jax.Array, of_channels: jax.Array) -> jax.Array:
    """Broadcast a [c] array to the shape of [n, h, w, c]."""
    return jax.lax.broadcast_in_dim(of_channels, x.shape, (x.ndim - 1,))


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _batch_norm_on_cpu(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, Statistics]:
    """Compute `batch_norm`, with a backward pass of two sums and one pass over the input.

    Automatic differentiation would need more of both.
    """
    return batch_norm(x, scale, bias, epsilon)


def _forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[tuple[jax.Array, Statistics], tuple[jax.Array, ...]]:
    mean, variance = _statistics(x)
    y, inverse = _apply(x, scale, bias, mean, variance, epsilon)
    return (y, (mean, variance)), (x, scale, mean, inverse)


def _backward(
    epsilon: float, saved: tuple[jax.Array, ...], gradients: tuple[jax.Array, Statistics]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, scale, mean, inverse = saved
    gradient = gradients[0]
    count = x.size // x.shape[-1]
    centred = _centred(x, mean)
    along_bias, product = _sums(gradient, gradient * centred)
    along_scale = product * inverse
    # factor * (gradient - its mean - its correlation with x * the normalised x)
    factor = scale * inverse
    slope = -factor * inverse * along_scale / count
    along_x = _to(x, factor) * (gradient - _to(x, along_bias / count)) + _to(x, slope) * centred
    return along_x.astype(x.dtype), along_scale, along_bias


_batch_norm_on_cpu.defvjp(_forward, _backward)


def _sums(*arrays: jax.Array) -> jax.Array:
    """Sum [n, ..., c] arrays made from the same input to [len(arrays), c].

    The sums are taken first over each image. XLA then makes one GPU kernel for all arrays and one
    for the sums over the images; plain sums would take one kernel and one more for each
    array. Over devices all sums are reduced together.
    """
    per_image = [jnp.sum(array, tuple(range(1, array.ndim - 1))) for array in arrays]
    return jnp.sum(jnp.stack(per_image), axis=1)
