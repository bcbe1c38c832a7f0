"""One long-tailed data set and no tasks: the digits, with 120 images of one class and 3 of another.

    .venv/bin/python benchmarks/long_tail.py

A training loop of optax and `bsce_jax.losses` for a perceptron of one hidden layer. A seed chooses
how many images each class has, which images these are, and the first weights. The test images are
those of the data set: 34 to 36 of each class.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import common
import jax
import jax.numpy as jnp
import numpy as np
import optax

from bsce_jax import losses
from bsce_jax.cli import Parser
from bsce_jax.data import Source, digits
from bsce_jax.errors import exit_on_user_error

SEEDS = range(10)
MOST, LEAST = 120, 3  # images of the commonest and of the rarest class
CLASSES, HIDDEN, STEPS = 10, 64, 300
OPTIMIZER = optax.adamw(1e-2)
DIGITS = digits.load(Path())

# (logits, labels, counts) -> [batch]
Loss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
LOSSES: dict[str, Loss] = {
    "cross_entropy": lambda z, y, n: losses.softmax_cross_entropy(z, y),
    "balanced_softmax": lambda z, y, n: losses.balanced_softmax_cross_entropy(z, y, n),
}


def long_tail(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose training images; return their records, and the number of each class [C]."""
    rng = np.random.default_rng(seed)
    counts = np.rint(np.geomspace(MOST, LEAST, CLASSES)).astype(int)[rng.permutation(CLASSES)]
    of_class = [rng.permutation(np.flatnonzero(DIGITS.train.labels == c)) for c in range(CLASSES)]
    chosen = [records[:n] for records, n in zip(of_class, counts, strict=True)]
    return np.concatenate(chosen), counts


def logits(params: dict[str, jax.Array], images: jax.Array) -> jax.Array:
    """Map images [n, 64] to logits [n, C]."""
    hidden = jax.nn.relu(images @ params["first"])
    return hidden @ params["second"]


@functools.partial(jax.jit, static_argnames="loss")
def step(
    params: dict[str, jax.Array],
    state: optax.OptState,
    images: jax.Array,
    labels: jax.Array,
    counts: jax.Array,
    loss: Loss,
) -> tuple[dict[str, jax.Array], optax.OptState]:
    """Train on all images once."""
    objective = lambda params: loss(logits(params, images), labels, counts).mean()
    updates, state = OPTIMIZER.update(jax.grad(objective)(params), state, params)
    return optax.apply_updates(params, updates), state


def train(seed: int, loss: Loss) -> np.ndarray:
    """Train on a long tail; return the predicted class of each test image."""
    records, counts = long_tail(seed)
    first, second = jax.random.split(jax.random.key(seed))
    normal = jax.nn.initializers.he_normal()
    params = {
        "first": normal(first, (64, HIDDEN), jnp.float32),
        "second": normal(second, (HIDDEN, CLASSES), jnp.float32),
    }
    state = OPTIMIZER.init(params)
    data = flat(DIGITS.train, records), DIGITS.train.labels[records], counts
    for _ in range(STEPS):
        params, state = step(params, state, *data, loss=loss)
    test = flat(DIGITS.test, np.arange(len(DIGITS.test.labels)))
    return np.asarray(logits(params, test).argmax(1))  # of the plain logits


def flat(source: Source, records: np.ndarray) -> jax.Array:
    """Read images as vectors [n, 64] of numbers from 0 to 1."""
    return jnp.asarray(source.images(records).reshape(len(records), -1) / 255, jnp.float32)


def main() -> None:
    Parser(description=__doc__).read()
    print("| loss | accuracy, all classes | commonest class | rarest class |")
    print("|---|---|---|---|")
    labels = DIGITS.test.labels
    for name, loss in LOSSES.items():
        rows = []
        for seed in SEEDS:
            counts = long_tail(seed)[1]
            right = 100 * (train(seed, loss) == labels)
            accuracy = [right[labels == c].mean() for c in range(CLASSES)]
            rows.append([right.mean(), accuracy[counts.argmax()], accuracy[counts.argmin()]])
        cells = [common.mean_and_deviation(column) for column in zip(*rows, strict=True)]
        print(f"| `{name}` | {' | '.join(cells)} |")


if __name__ == "__main__":
    exit_on_user_error(main)
