"""Convolution with a backward pass that is fast on CPUs too, in loops as well as outside them."""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

_LAYOUT = ("NHWC", "HWIO", "NHWC")
# He et al. 2015 by fan-out, as the references initialise their convolutions
_he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


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

    The same numbers as `jax.lax.conv_general_dilated`, forward and backward. On CPUs XLA runs a
    convolution on its fast path only if its dimensions come in the order NHWC, HWIO, and it puts
    the ones of the backward pass in that order only outside of loops: in a `lax.scan` the gradient
    of a kernel takes many times as long. Here the transposes are explicit.
    """
    return _conv(x, kernel, stride)


def _conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    pad = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), [(pad, pad)] * 2, dimension_numbers=_LAYOUT
    )


def _forward(
    x: jax.Array, kernel: jax.Array, stride: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _conv(x, kernel, stride), (x, kernel)


def _backward(
    stride: int, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    def elsewhere(
        x: jax.Array, kernel: jax.Array, gradient: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        _, pull_back = jax.vjp(lambda x, kernel: _conv(x, kernel, stride), x, kernel)
        gradients: tuple[jax.Array, jax.Array] = pull_back(gradient)
        return gradients

    return jax.lax.platform_dependent(
        *saved, gradient, cpu=partial(_backward_on_cpu, stride), default=elsewhere
    )


def _backward_on_cpu(
    stride: int, x: jax.Array, kernel: jax.Array, gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    size, pad = kernel.shape[0], kernel.shape[0] // 2
    # what the last window leaves of the padded image, where the stride does not divide it
    rest = [
        before + 2 * pad - size - (after - 1) * stride
        for before, after in zip(x.shape[1:3], gradient.shape[1:3], strict=True)
    ]
    # each input pixel gathers the gradients of the windows that held it
    along_x = _plain(
        gradient,
        kernel[::-1, ::-1].transpose(0, 1, 3, 2),
        [(size - 1 - pad, size - 1 - pad + r) for r in rest],
        lhs_dilation=stride,
    )
    # each kernel element correlates the input with the gradient: images are the channels here
    along_kernel = _plain(
        x.transpose(3, 1, 2, 0),
        gradient.transpose(1, 2, 0, 3),
        [(pad, pad - r) for r in rest],
        rhs_dilation=stride,
    )
    return along_x, along_kernel.transpose(1, 2, 0, 3)


def _plain(
    x: jax.Array,
    kernel: jax.Array,
    padding: Sequence[tuple[int, int]],
    lhs_dilation: int = 1,
    rhs_dilation: int = 1,
) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        padding,
        lhs_dilation=(lhs_dilation, lhs_dilation),
        rhs_dilation=(rhs_dilation, rhs_dilation),
        dimension_numbers=_LAYOUT,
    )


conv.defvjp(_forward, _backward)
