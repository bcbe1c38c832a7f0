"""BatchNorm that reads its input as seldom as can be: a training step is bound by memory."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp


class BatchNorm(nn.Module):
    """Normalises each channel of [n, h, w, c] over all else (Ioffe and Szegedy 2015).

    The same numbers and variables as `flax.linen.BatchNorm`. The backward pass is written out: two
    sums and one pass over the input, where differentiating the forward pass takes more of both.
    Statistics are float32, and global where the batch is split over devices.

    Attributes:
      momentum: of the running statistics that evaluation uses.
      epsilon: added to the variance.
      scale: every channel's learned factor at the start.
      dtype: of the output.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    scale: float = 1.0
    dtype: jnp.dtype = jnp.dtype(jnp.float32)

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
        y, of_batch = batch_norm(x, scale, bias, self.epsilon)
        if not self.is_initializing():
            for running, now in zip((mean, variance), of_batch, strict=True):
                running.value = self.momentum * running.value + (1 - self.momentum) * now
        return y.astype(self.dtype)


Statistics = tuple[jax.Array, jax.Array]


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def batch_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, Statistics]:
    """Normalises [..., c] by its own statistics.

    Returns:
      The output, float32, and mean and variance [c] of the input. No gradient flows through these
      two.
    """
    return _forward(x, scale, bias, epsilon)[0]


def _apply(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    epsilon: float,
) -> tuple[jax.Array, jax.Array]:
    inverse = jax.lax.rsqrt(variance + epsilon)
    factor = scale * inverse
    return x.astype(jnp.float32) * factor + (bias - mean * factor), inverse


def _forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[tuple[jax.Array, Statistics], tuple[jax.Array, ...]]:
    wide = x.astype(jnp.float32)
    mean, square = _sums(wide, jnp.square(wide)) / (x.size // x.shape[-1])
    # rounding must not make the difference negative
    variance = jnp.maximum(0, square - jnp.square(mean))
    y, inverse = _apply(x, scale, bias, mean, variance, epsilon)
    return (y, (mean, variance)), (x, scale, mean, inverse)


def _backward(
    epsilon: float, saved: tuple[jax.Array, ...], gradients: tuple[jax.Array, Statistics]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, scale, mean, inverse = saved
    gradient = gradients[0]
    count = x.size // x.shape[-1]
    wide = x.astype(jnp.float32)
    along_bias, product = _sums(gradient, gradient * wide)
    along_scale = (product - mean * along_bias) * inverse
    # factor * (gradient - its mean - its correlation with x * the normalised x), as two products
    factor = scale * inverse
    slope = -factor * inverse * along_scale / count
    along_x = factor * (gradient - along_bias / count) + slope * (wide - mean)
    return along_x.astype(x.dtype), along_scale, along_bias


def _sums(*arrays: jax.Array) -> jax.Array:
    """Sums [n, ..., c] arrays made of the same input to [len(arrays), c].

    Image by image, XLA makes one kernel of them for a GPU, and one more of the sums of those; of
    plain sums it makes one and one more for each. Split over devices, they are added up together.
    """
    per_image = [jnp.sum(array, tuple(range(1, array.ndim - 1))) for array in arrays]
    return jnp.sum(jnp.stack(per_image), axis=1)


batch_norm.defvjp(_forward, _backward)
