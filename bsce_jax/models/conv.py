"""Convolution that is fast on CPUs too, forward and backward, in loops as well as outside them.

XLA's CPU backend runs a convolution of NHWC images with an HWIO kernel at full speed, unless it has
few output channels, and the gradient of a kernel at a small part of it; docs/performance.md has the
measurements. So on CPUs the same numbers are computed in another order here. Other platforms get
XLA's own convolution and its gradients.
"""

import math
from collections.abc import Callable
from functools import partial, reduce

import flax.linen as nn
import jax
import jax.numpy as jnp

# He et al. 2015 by fan-out, as the references initialise their convolutions
_he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

Pair = tuple[jax.Array, jax.Array]


class Conv(nn.Module):
    """A square convolution without bias; `size // 2` pixels of zeros on each side.

    Attributes:
      width: output channels.
      size: height and width of the kernel, odd.
      stride: in both directions.
      dtype: of the computation; the kernel is float32.
    """

    width: int
    size: int = 3
    stride: int = 1
    dtype: jnp.dtype = jnp.dtype(jnp.float32)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.size, self.size, x.shape[-1], self.width)
        kernel = self.param("kernel", _he_fan_out, shape, jnp.float32)
        return conv(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolves [n, h, w, c] with an odd [k, k, c, o] kernel, padded by k // 2 zeros a side.

    The numbers of `jax.lax.conv_general_dilated` but for the order of the sums.
    """
    return jax.lax.platform_dependent(
        x, kernel, cpu=partial(_on_cpu, stride), default=partial(_by_xla, stride)
    )


def _forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, Pair]:
    return conv(x, kernel, stride), (x, kernel)


def _backward(stride: int, saved: Pair, gradient: jax.Array) -> Pair:
    return jax.lax.platform_dependent(
        *saved,
        gradient,
        cpu=partial(_gradients_on_cpu, stride),
        default=partial(_gradients_by_xla, stride),
    )


conv.defvjp(_forward, _backward)


def _by_xla(stride: int, x: jax.Array, kernel: jax.Array) -> jax.Array:
    pad = kernel.shape[0] // 2
    return _nhwc(x, kernel, (stride, stride), [(pad, pad)] * 2)


def _gradients_by_xla(stride: int, x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> Pair:
    _, pull_back = jax.vjp(partial(_by_xla, stride), x, kernel)
    gradients: Pair = pull_back(gradient)
    return gradients


def _on_cpu(stride: int, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes two neighbouring outputs as channels of one where there are few channels.

    The kernel of the two is one column wider and half zeros: a third more products for 3x3, but
    they run at more than twice the speed.
    """
    size, outputs = kernel.shape[0], kernel.shape[-1]
    n, height, width, _ = x.shape
    if stride != 1 or width % 2 or outputs > 16:
        return _by_xla(stride, x, kernel)
    left = jnp.pad(kernel, [(0, 0), (0, 1), (0, 0), (0, 0)])
    right = jnp.pad(kernel, [(0, 0), (1, 0), (0, 0), (0, 0)])
    both = jnp.concatenate([left, right], axis=-1)
    pad = size // 2
    y = _nhwc(x, both, (1, 2), [(pad, pad)] * 2)
    return y.reshape(n, height, width, outputs)


def _gradients_on_cpu(stride: int, x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> Pair:
    of_kernel = of_computed(partial(along_kernel, stride, kernel.shape[0]), x, gradient)
    return along_x(stride, x.shape, kernel, gradient), of_kernel


def of_computed(
    function: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, gradient: jax.Array
) -> jax.Array:
    """Calls a function of two arrays, which XLA on CPUs computes before it, and once.

    Otherwise it fuses what they are made of into their uses, and computes it for each of them, in
    the order that the use wants.
    """
    shape = jax.eval_shape(function, x, gradient)
    return jax.lax.cond(
        # The test lets NaN through as NaN, and is there for what XLA makes of it: a branch gets its
        # arguments computed. (XLA drops `optimization_barrier` on CPUs before it fuses.)
        jnp.isnan(gradient.ravel()[0]),
        lambda x, gradient: jnp.full(shape.shape, jnp.nan, shape.dtype),
        function,
        x,
        gradient,
    )


def along_x(
    stride: int, shape: tuple[int, ...], kernel: jax.Array, gradient: jax.Array
) -> jax.Array:
    """Lets each input pixel gather the gradients of the windows that held it."""
    flipped = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    if stride == 1:
        return _on_cpu(1, gradient, flipped)
    size, pad = kernel.shape[0], kernel.shape[0] // 2
    rests = [_rest(shape[axis], gradient.shape[axis], size, stride) for axis in (1, 2)]
    padding = [(pad, pad + rest) for rest in rests]
    return _nhwc(gradient, flipped, (1, 1), padding, between_pixels=stride)


def along_kernel(stride: int, size: int, x: jax.Array, gradient: jax.Array) -> jax.Array:
    """Convolves the input with the gradient, the channels as images and the images as channels.

    The sums over parts of the batch are faster one by one: what they read stays in the cache.
    """
    pad = size // 2
    rests = [_rest(x.shape[axis], gradient.shape[axis], size, stride) for axis in (1, 2)]
    parts = math.gcd(len(x), min(8, max(1, len(x) // 16)))
    # every part has images of all devices over which the batch is split
    images = x.reshape(-1, parts, *x.shape[1:]).transpose(1, 4, 2, 3, 0)
    kernels = gradient.reshape(-1, parts, *gradient.shape[1:]).transpose(1, 2, 3, 0, 4)
    padding = [(pad, pad - rest) for rest in rests]
    sums = [
        _nhwc(image, kernel, (1, 1), padding, between_weights=stride)
        for image, kernel in zip(images, kernels, strict=True)
    ]
    return reduce(jnp.add, sums).transpose(1, 2, 0, 3)


def _rest(before: int, after: int, size: int, stride: int) -> int:
    """Counts the pixels after the last window, where the stride does not divide the image."""
    return before + 2 * (size // 2) - size - (after - 1) * stride


def _nhwc(
    x: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, int],
    padding: list[tuple[int, int]],
    between_pixels: int = 1,
    between_weights: int = 1,
) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        lhs_dilation=(between_pixels, between_pixels),
        rhs_dilation=(between_weights, between_weights),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
