"""Convolution that is fast on CPUs too, forward and backward, inside and outside loops.

XLA's CPU backend is fast for a convolution of NHWC images with an HWIO kernel and many output
channels. It is slower with few output channels, and much slower for the gradient of the kernel;
docs/performance.md has the measurements. So on CPUs the same values are computed in other ways
here. Other platforms use XLA's own convolution, and a single GPU XLA's own gradients too.

On CPUs, on TPUs and on several GPUs the gradient of the kernel is float32 from the start, whatever
the precision of the computation. With a batch split over devices XLA sums the gradient of each
device as it is, and bfloat16 is too coarse for sums over many devices.
"""

import math
from collections.abc import Callable
from dataclasses import field
from functools import partial, reduce

import flax.linen as nn
import jax
import jax.numpy as jnp

from bsce_jax.models.ops.platform import default_platform

# He et al. 2015 by fan-out, as in the reference codes
_he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

Pair = tuple[jax.Array, jax.Array]


class Conv(nn.Module):
    """A square convolution without bias; `size // 2` pixels of zeros on each side.

    Attributes:
      width: output channels.
      size: height and width of the kernel, odd.
      stride: in both directions.
      dtype: of the computation; the kernel is float32.
      platform: of the devices, as named by `default_platform`. The implementations for "cpu",
        "tpu" and "gpus" exclude forward-mode differentiation.
    """

    width: int
    size: int = 3
    stride: int = 1
    dtype: jnp.dtype = jnp.dtype(jnp.float32)
    platform: str = field(default_factory=default_platform)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.size, self.size, x.shape[-1], self.width)
        kernel = self.param("kernel", _he_fan_out, shape, jnp.float32)
        others = {"cpu": conv_on_cpu, "tpu": conv_over_devices, "gpus": conv_over_devices}
        convolved = others.get(self.platform, conv)
        return convolved(x.astype(self.dtype), kernel, self.stride)


def conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolve [n, h, w, c] with an odd [k, l, c, o] kernel, padding half its size with zeros.

    The kernel is float32; the precision of the input is that of the computation.
    """
    return _nhwc(x, kernel.astype(x.dtype), (stride, stride), _halves(kernel.shape[:2]))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv_over_devices(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Compute `conv`, with a gradient of the kernel that is float32 before it is summed."""
    return conv(x, kernel, stride)


def _forward_over_devices(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, Pair]:
    return conv(x, kernel, stride), (x, kernel)


def _backward_over_devices(stride: int, saved: Pair, gradient: jax.Array) -> Pair:
    x, kernel = saved
    (of_x,) = jax.linear_transpose(lambda x: conv(x, kernel, stride), x)(gradient)
    return of_x, _sum_of_parts(1, stride, kernel.shape[:2], x, gradient)


conv_over_devices.defvjp(_forward_over_devices, _backward_over_devices)


def _halves(sizes: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(size // 2, size // 2) for size in sizes]


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv_on_cpu(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Compute `conv` and its gradients, up to rounding, faster on a CPU."""
    return _on_cpu(stride, x, kernel)


def _forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, Pair]:
    return _on_cpu(stride, x, kernel), (x, kernel.astype(x.dtype))


def _on_cpu(stride: int, x: jax.Array, kernel: jax.Array) -> jax.Array:
    kernel = kernel.astype(x.dtype)
    width, outputs = x.shape[2], kernel.shape[-1]
    if _suits_winograd(stride, width, kernel):
        return _by_winograd(x, kernel)
    if stride == 1 and width % 2 == 0 and outputs <= 16:
        return _pixels_as_channels(x, kernel)
    return conv(x, kernel, stride)


def _pixels_as_channels(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Compute two neighbouring outputs as the channels of one, for few channels.

    The joint kernel is one column wider and contains zeros. For 3x3 that is a third more products,
    but they run at more than twice the speed.
    """
    left = jnp.pad(kernel, [(0, 0), (0, 1), (0, 0), (0, 0)])
    right = jnp.pad(kernel, [(0, 0), (1, 0), (0, 0), (0, 0)])
    both = jnp.concatenate([left, right], axis=-1)
    y = _nhwc(x, both, (1, 2), _halves(kernel.shape[:2]))
    return y.reshape(*x.shape[:3], kernel.shape[-1])


def _suits_winograd(stride: int, width: int, kernel: jax.Array) -> bool:
    """Tell whether `_by_winograd` is possible, and saves more than its additional sums cost.

    The sums have the precision of the kernel, and bfloat16 is too coarse for them.
    """
    *sizes, inputs, outputs = kernel.shape
    possible = stride == 1 and sizes == [3, 3] and width % 2 == 0 and kernel.dtype == jnp.float32
    return possible and min(inputs, outputs) >= 64


def _by_winograd(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolve with a 3x3 kernel, with four products instead of six for two neighbouring outputs.

    This is Winograd's F(2, 3) along the width (Lavin and Gray, Fast Algorithms for Convolutional
    Neural Networks, CVPR 2016, section 4.1), with sums over height and channels.
    """
    left, middle, right = kernel[:, :1], kernel[:, 1:2], kernel[:, 2:]
    outer, inner = (left + right) / 2, middle / 2
    n, height, width, channels = x.shape
    padded = jnp.pad(x, [(0, 0), (0, 0), (1, 1), (0, 0)])
    pairs = padded.reshape(n, height, width // 2 + 1, 2, channels)
    # the four pixels under the two windows
    a, b = pairs[:, :, :-1, 0], pairs[:, :, :-1, 1]
    c, d = pairs[:, :, 1:, 0], pairs[:, :, 1:, 1]
    first = conv_on_cpu(a - c, left, 1)
    plus = conv_on_cpu(b + c, outer + inner, 1)
    minus = conv_on_cpu(c - b, outer - inner, 1)
    last = conv_on_cpu(b - d, right, 1)
    both = jnp.stack([first + plus + minus, plus - minus - last], axis=3)
    return both.reshape(n, height, width, kernel.shape[-1])


def _backward(stride: int, saved: Pair, gradient: jax.Array) -> Pair:
    x, kernel = saved
    if _suits_winograd(stride, x.shape[2], kernel):
        _, pull_back = jax.vjp(_by_winograd, x, kernel)
        gradients: Pair = pull_back(gradient)
        return gradients
    of_kernel = of_computed(partial(along_kernel, stride, kernel.shape[:2]), x, gradient)
    return along_x(stride, x.shape, kernel, gradient), of_kernel


conv_on_cpu.defvjp(_forward, _backward)


def of_computed(
    function: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, gradient: jax.Array
) -> jax.Array:
    """Call a function of two arrays, and make XLA on CPUs materialise both arrays before.

    Otherwise XLA fuses the computation of the arrays into each of their uses, and so repeats it.

    With several processes the function is called as it is. It may hold a sum over the devices, all
    processes must compute such sums in one order, and XLA on CPUs keeps no order between those in
    branches.
    """
    if jax.process_count() > 1:
        return function(x, gradient)
    shape = jax.eval_shape(function, x, gradient)
    return jax.lax.cond(
        # The condition passes NaN on as NaN. Its purpose is that XLA materialises the arguments of
        # a branch. (XLA drops `optimization_barrier` on CPUs before it fuses.)
        jnp.isnan(gradient.ravel()[0]),
        lambda x, gradient: jnp.full(shape.shape, jnp.nan, shape.dtype),
        function,
        x,
        gradient,
    )


def along_x(
    stride: int, shape: tuple[int, ...], kernel: jax.Array, gradient: jax.Array
) -> jax.Array:
    """Compute the gradient of the input: each pixel sums over the windows that contain it."""
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
    """Compute the gradient of the kernel: a convolution with channels and images exchanged.

    The batch is summed in parts, since what a part reads then stays in the cache. A part has the 8
    images of a vector, or more if they have few pixels or the batch is large. There are at most 16
    parts: each is compiled separately, and more parts are not faster.
    """
    pixels = gradient.shape[1] * gradient.shape[2]
    parts = math.gcd(len(x), max(1, min(16, len(x) // max(8, 512 // pixels))))
    return _sum_of_parts(parts, stride, sizes, x, gradient)


def _sum_of_parts(
    parts: int, stride: int, sizes: tuple[int, ...], x: jax.Array, gradient: jax.Array
) -> jax.Array:
    rests = _rests(stride, sizes, x.shape, gradient.shape)
    padding = [(size // 2, size // 2 - rest) for size, rest in zip(sizes, rests, strict=True)]
    # every part has images from each device over which the batch is split
    images = x.reshape(-1, parts, *x.shape[1:]).transpose(1, 4, 2, 3, 0)
    kernels = gradient.reshape(-1, parts, *gradient.shape[1:]).transpose(1, 2, 3, 0, 4)
    sums = [
        _nhwc(image, kernel, (1, 1), padding, between_weights=stride, output=jnp.float32)
        for image, kernel in zip(images, kernels, strict=True)
    ]
    return reduce(jnp.add, sums).transpose(1, 2, 0, 3)


def _rests(
    stride: int, sizes: tuple[int, ...], before: tuple[int, ...], after: tuple[int, ...]
) -> list[int]:
    """Count the pixels after the last window, if the stride does not divide the image."""
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
    output: jax.typing.DTypeLike | None = None,
) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        lhs_dilation=(between_pixels, between_pixels),
        rhs_dilation=(between_weights, between_weights),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=output,
    )
