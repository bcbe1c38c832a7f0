"""Handwritten digits: 10 classes in 5 tasks of 2, a few exemplars a class, on a laptop's CPU.

The smallest run that shows the effect of the balanced loss: each new class has about 144 training
images, each old class 10 exemplars.

    python -m bsce_jax.train --config digits --workdir runs/digits
"""

from ml_collections import ConfigDict

from bsce_jax import config


def get_config(arg: str = "") -> ConfigDict:
    args = config.arguments(arg, method="il_baseline", loss=None, base=2, increment=2)
    c = config.default(args.method, args.loss)
    c.dataset.name = "digits"
    c.scenario.base = args.base
    c.scenario.increment = args.increment
    c.model.name = "small"
    if c.memory.size:
        c.memory.size = 10
    c.train.epochs = 30
    c.train.batch_size = 32
    c.train.learning_rate = 0.05
    return c
