"""Three replicas in one program by vmap, compared with three steps one after the other.

    .venv/bin/python benchmarks/replicas.py MODEL SIZE BATCH      # such as resnet32 32 128

The result is the reason why there is no `runtime.replicas`; see docs/performance.md.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bsce_jax import losses
from bsce_jax.cli import Parser
from bsce_jax.errors import exit_on_user_error
from bsce_jax.models import make_model

REPLICAS, STEPS = 3, 10


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("size", type=int, help="height and width of the images in pixels")
    parser.add_argument("batch", type=int, help="images a batch")
    args = parser.read()
    name, size, batch = args.model, args.size, args.batch
    network = make_model(name, head="linear", num_classes=100, dtype="float32")
    images = jax.random.normal(jax.random.key(0), (batch, size, size, 3))
    labels = jax.random.randint(jax.random.key(1), (batch,), 0, 100)

    def step(variables: Any) -> Any:
        def objective(params: Any) -> Any:
            changed = {**variables, "params": params}
            outputs, updated = network.apply(changed, images, train=True, mutable=["batch_stats"])
            return jnp.mean(losses.softmax_cross_entropy(outputs.logits, labels)), updated

        gradients, updated = jax.grad(objective, has_aux=True)(variables["params"])
        moved = jax.tree.map(lambda p, g: p - 1e-3 * g, variables["params"], gradients)
        return {"params": moved, **updated}

    def repeat(one: Callable[[Any], Any]) -> Callable[[Any], Any]:
        loop = lambda state: jax.lax.scan(lambda s, _: (one(s), None), state, length=STEPS)[0]
        return jax.jit(loop)

    init = jax.jit(lambda key: network.init(key, images[:1], train=False))
    models = [init(jax.random.key(i)) for i in range(REPLICAS)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)
    single, together = repeat(step), repeat(jax.vmap(step))
    apart = best_time(lambda: [single(model) for model in models])
    joined = best_time(lambda: together(stacked))
    print(
        f"{name}, {size}x{size}, batch {batch}: a step of {REPLICAS} replicas takes "
        f"{apart:.1f} ms one after the other, {joined:.1f} ms in one program"
    )


def best_time(run: Callable[[], Any]) -> float:
    times = []
    for _ in range(4):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append((time.perf_counter() - start) / STEPS * 1e3)
    return min(times[1:])


if __name__ == "__main__":
    exit_on_user_error(main)
