"""Ways to compute the kernel gradient of a 3x3 convolution on a CPU, among them the one in use.

    .venv/bin/python benchmarks/kernel_gradient.py

Prints the ms that each way takes in a `lax.scan`, compiled like the train step, for 128 images at
the three stages of a ResNet-32, and the ms of PyTorch if it is installed. The results of all ways
are compared. The one in use is in models/ops/conv.py.
"""

import importlib.util
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from bsce_jax.cli import Parser
from bsce_jax.errors import exit_on_user_error
from bsce_jax.models.ops import conv
from bsce_jax.training import compiler

STAGES = ((32, 16), (16, 32), (8, 64))  # size, channels
LAYOUT = ("NHWC", "HWIO", "NHWC")
STEPS = 5
Way = Callable[[jax.Array, jax.Array], jax.Array]


def as_convolution(x: jax.Array, gradient: jax.Array) -> jax.Array:
    images, kernel = x.transpose(3, 1, 2, 0), gradient.transpose(1, 2, 0, 3)
    y = jax.lax.conv_general_dilated(images, kernel, (1, 1), [(1, 1)] * 2, dimension_numbers=LAYOUT)
    return y.transpose(1, 2, 0, 3)


def windows(x: jax.Array) -> list[jax.Array]:
    height, width = x.shape[1:3]
    padded = jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    return [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]


def product(x: jax.Array, y: jax.Array) -> jax.Array:
    return x.reshape(-1, x.shape[-1]).T @ y.reshape(-1, y.shape[-1])


def nine_products(x: jax.Array, gradient: jax.Array) -> jax.Array:
    products = jnp.stack([product(window, gradient) for window in windows(x)])
    return products.reshape(3, 3, x.shape[-1], gradient.shape[-1])


def im2col_of_input(x: jax.Array, gradient: jax.Array) -> jax.Array:
    columns = jnp.concatenate(windows(x), axis=-1)
    return product(columns, gradient).reshape(3, 3, x.shape[-1], gradient.shape[-1])


def im2col_of_gradient(x: jax.Array, gradient: jax.Array) -> jax.Array:
    columns = jnp.concatenate(windows(gradient)[::-1], axis=-1)
    found = product(x, columns).reshape(x.shape[-1], 3, 3, gradient.shape[-1])
    return found.transpose(1, 2, 0, 3)


def three_moves_of_each(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """Shift the input along columns and the gradient along rows: 6 copies instead of 9."""
    height, width = x.shape[1:3]
    x = jnp.pad(x, [(0, 0), (0, 0), (1, 1), (0, 0)])
    gradient = jnp.pad(gradient, [(0, 0), (1, 1), (0, 0), (0, 0)])
    columns = jnp.concatenate([x[:, :, j : j + width] for j in range(3)], axis=-1)
    rows = jnp.concatenate([gradient[:, 2 - i : 2 - i + height] for i in range(3)], axis=-1)
    found = product(columns, rows).reshape(3, x.shape[-1], 3, gradient.shape[-1])
    return found.transpose(2, 0, 1, 3)


WAYS: dict[str, Way] = {
    "a convolution whose images are the channels": as_convolution,
    "nine products, one for each element of the kernel": nine_products,
    "im2col of the input, one product": im2col_of_input,
    "im2col of the gradient, one product": im2col_of_gradient,
    "three moves of each, one product": three_moves_of_each,
    "the convolution in parts of the batch (models/ops/conv.py)": partial(
        conv.along_kernel, 1, (3, 3)
    ),
}


def milliseconds(way: Way, x: jax.Array, gradient: jax.Array) -> float:
    def step(carry: jax.Array, _: None) -> tuple[jax.Array, None]:
        # everything depends on the carry, so that XLA moves no work out of the loop
        found = conv.of_computed(way, x + carry, gradient + carry)
        return carry + 1e-30 * jnp.sum(found), None

    @partial(jax.jit, compiler_options=compiler.options(jax.default_backend()))
    def loop() -> jax.Array:
        return jax.lax.scan(step, jnp.zeros(()), length=STEPS)[0]

    return best(lambda: loop().block_until_ready()) / STEPS


def torch_milliseconds(x: np.ndarray, gradient: np.ndarray) -> float:
    import torch

    images, gradients = (torch.from_numpy(a.transpose(0, 3, 1, 2).copy()) for a in (x, gradient))
    kernel = torch.zeros(gradient.shape[-1], x.shape[-1], 3, 3)
    options = (None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [False, True, False])
    return best(lambda: torch.ops.aten.convolution_backward(gradients, images, kernel, *options))


def best(run: Callable[[], object]) -> float:
    times = []
    for _ in range(6):
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
    return min(times[1:])


def main() -> None:
    Parser(description=__doc__).read()
    rng = np.random.default_rng(0)
    pairs = [
        rng.normal(size=(2, 128, size, size, channels)).astype(np.float32)
        for size, channels in STAGES
    ]
    titles = [f"{size}x{size}, {channels} channels" for size, channels in STAGES]
    print(f"| way | {' | '.join(titles)} |")
    print("|---" * (1 + len(STAGES)) + "|")
    expected = [as_convolution(*map(jnp.asarray, pair)) for pair in pairs]
    for name, way in WAYS.items():
        cells = []
        for pair, right in zip(pairs, expected, strict=True):
            x, gradient = map(jnp.asarray, pair)
            np.testing.assert_allclose(jax.jit(way)(x, gradient), right, rtol=1e-3, atol=1e-2)
            cells.append(f"{milliseconds(way, x, gradient):.1f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    if importlib.util.find_spec("torch"):
        cells = [f"{torch_milliseconds(*pair):.1f}" for pair in pairs]
        print(f"| PyTorch | {' | '.join(cells)} |")


if __name__ == "__main__":
    exit_on_user_error(main)
