"""CIFAR-100, 50 + 5x10 classes unless told otherwise, ResNet-32, 160 epochs a task.

The protocol of LUCIR and PODNet: the class order of seed 1993, 20 exemplars a class chosen by
herding, SGD restarted in every task.

    python -m bsce_jax.prepare cifar100 --data_dir data
    python -m bsce_jax.train --config configs/cifar100.py:method=il_baseline --workdir runs/cifar100
"""

from ml_collections import ConfigDict

from bsce_jax import config


def get_config(arg: str = "") -> ConfigDict:
    args = config.arguments(arg, method="il_baseline", loss=None, base=50, increment=10)
    c = config.default(args.method, args.loss)
    c.dataset.name = "cifar100"
    c.scenario.base = args.base
    c.scenario.increment = args.increment
    c.model.name = "resnet32"
    c.train.epochs = 160
    c.train.augmentation = "crop+flip"
    return c
