"""Convolution that is fast on CPUs too, forward and backward, in loops as well as outside them.

XLA's CPU backend runs a convolution of NHWC images with an HWIO kernel at full speed, unless it has
few output channels, and the gradient of a kernel at a small part of it; docs/performance.md has the
measurements. So on CPUs the same numbers are computed in other ways here. Other platforms get
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
    """Convolves [n, h, w, c] with an odd [k, l, c, o] kernel, padded by half of it in zeros a side.

    The numbers of `jax.lax.conv_general_dilated` but for rounding.
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
    return _nhwc(x, kernel, (stride, stride), _halves(kernel.shape[:2]))


def _halves(sizes: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(size // 2, size // 2) for size in sizes]


def _gradients_by_xla(stride: int, x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> Pair:
    _, pull_back = jax.vjp(partial(_by_xla, stride), x, kernel)
    gradients: Pair = pull_back(gradient)
    return gradients


def _on_cpu(stride: int, x: jax.Array, kernel: jax.Array) -> jax.Array:
    width, outputs = x.shape[2], kernel.shape[-1]
    if _suits_winograd(stride, width, kernel):
        return _by_winograd(x, kernel)
    if stride == 1 and width % 2 == 0 and outputs <= 16:
        return _pixels_as_channels(x, kernel)
    return _by_xla(stride, x, kernel)


def _pixels_as_channels(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes two neighbouring outputs as channels of one, where there are few channels.

    The kernel of the two is one column wider and half zeros: a third more products for 3x3, but
    they run at more than twice the speed.
    """
    left = jnp.pad(kernel, [(0, 0), (0, 1), (0, 0), (0, 0)])
    right = jnp.pad(kernel, [(0, 0), (1, 0), (0, 0), (0, 0)])
    both = jnp.concatenate([left, right], axis=-1)
    y = _nhwc(x, both, (1, 2), _halves(kernel.shape[:2]))
    return y.reshape(*x.shape[:3], kernel.shape[-1])


def _suits_winograd(stride: int, width: int, kernel: jax.Array) -> bool:
    """Tells whether `_by_winograd` can convolve, and saves more than the sums around it cost.

    These sums have the precision of the kernel: bfloat16 would lose too much in them.
    """
    *sizes, inputs, outputs = kernel.shape
    possible = stride == 1 and sizes == [3, 3] and width % 2 == 0 and kernel.dtype == jnp.float32
    return possible and min(inputs, outputs) >= 64


def _by_winograd(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves with a 3x3 kernel, two neighbouring outputs from four products instead of six.

    That is F(2, 3) of Winograd along the width (Lavin and Gray, Fast Algorithms for Convolutional
    Neural Networks, CVPR 2016, section 4.1), for sums over height and channels.
    """
    left, middle, right = kernel[:, :1], kernel[:, 1:2], kernel[:, 2:]
    outer, inner = (left + right) / 2, middle / 2
    n, height, width, channels = x.shape
    padded = jnp.pad(x, [(0, 0), (0, 0), (1, 1), (0, 0)])
    pairs = padded.reshape(n, height, width // 2 + 1, 2, channels)
    # the four pixels under the two windows
    a, b = pairs[:, :, :-1, 0], pairs[:, :, :-1, 1]
    c, d = pairs[:, :, 1:, 0], pairs[:, :, 1:, 1]
    first = conv(a - c, left, 1)
    plus = conv(b + c, outer + inner, 1)
    minus = conv(c - b, outer - inner, 1)
    last = conv(b - d, right, 1)
    both = jnp.stack([first + plus + minus, plus - minus - last], axis=3)
    return both.reshape(n, height, width, kernel.shape[-1])


def _gradients_on_cpu(stride: int, x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> Pair:
    if _suits_winograd(stride, x.shape[2], kernel):
        _, pull_back = jax.vjp(_by_winograd, x, kernel)
        gradients: Pair = pull_back(gradient)
        return gradients
    of_kernel = of_computed(partial(along_kernel, stride, kernel.shape[:2]), x, gradient)
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
    sizes = kernel.shape[:2]
    rests = _rests(stride, sizes, shape, gradient.shape)
    padding = [(size // 2, size // 2 + rest) for size, rest in zip(sizes, rests, strict=True)]
    return _nhwc(gradient, flipped, (1, 1), padding, between_pixels=stride)


def along_kernel(
    stride: int, sizes: tuple[int, ...], x: jax.Array, gradient: jax.Array
) -> jax.Array:
    """Convolves the input with the gradient, the channels as images and the images as channels.

    The sums over parts of the batch are faster one by one: what they read stays in the cache. A
    part has the 8 images of a vector, or more where they have few pixels.
    """
    rests = _rests(stride, sizes, x.shape, gradient.shape)
    padding = [(size // 2, size // 2 - rest) for size, rest in zip(sizes, rests, strict=True)]
    pixels = gradient.shape[1] * gradient.shape[2]
    parts = math.gcd(len(x), max(1, len(x) // max(8, 512 // pixels)))
    # every part has images of all devices over which the batch is split
    images = x.reshape(-1, parts, *x.shape[1:]).transpose(1, 4, 2, 3, 0)
    kernels = gradient.reshape(-1, parts, *gradient.shape[1:]).transpose(1, 2, 3, 0, 4)
    sums = [
        _nhwc(image, kernel, (1, 1), padding, between_weights=stride)
        for image, kernel in zip(images, kernels, strict=True)
    ]
    return reduce(jnp.add, sums).transpose(1, 2, 0, 3)


def _rests(
    stride: int, sizes: tuple[int, ...], before: tuple[int, ...], after: tuple[int, ...]
) -> list[int]:
    """Counts the pixels after the last window, where the stride does not divide the image."""
    return [
        pixels + 2 * (size // 2) - size - (windows - 1) * stride
        for size, pixels, windows in zip(sizes, before[1:3], after[1:3], strict=True)
    ]


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
