"""CIFAR-100, 50 + 5x10 classes by default, ResNet-32, 160 epochs a task.

LUCIR's protocol and training: the class order of seed 1993, 20 exemplars a class by herding, SGD
at 0.1 falling tenfold at epochs 80 and 120 (`train.milestones`, fractions of all), weight decay
5e-4, batch 128, crop and flip, restarted in every task. PODNet has its own backbone, the cosine
schedule and also brightness jitter, and AFC has them too. SS-IL adds 32 exemplars to each batch.
DER and MEMO have PyCIL's backbone, 170 epochs, the rate falling at 80, 120 and 150, and brightness
jitter (PyCIL trains the first task for 200 epochs, and the later ones with weight decay 2e-4).
CCIL is trained for 120 epochs with the cosine schedule, in batches of 100 images and 100 random
exemplars, at 0.01 in later tasks.
FOSTER is like DER, but with the cosine schedule, and 130 epochs of compression. All other methods
are trained alike.

`:recipe=short` is for machines without a GPU: the cosine schedule, 30 epochs of the first task, 10
of each later one.

    python -m bsce_jax.prepare cifar100 --data_dir data
    python -m bsce_jax.train --config cifar100:method=lucir --workdir runs/lucir

Published average incremental accuracy, in %, ResNet-32, 20 exemplars a class (PODNet, table 1;
LUCIR's own figures in brackets), for base 50 and increments of 10 and 5; crop and flip, for PODNet
with brightness:

    method        :base=50,increment=10    :base=50,increment=5
    icarl (NME)   58.08                    53.78
    bic           56.86                    53.21
    lucir         64.01 (63.42)            61.22 (60.18)
    podnet        64.83                    63.19

With 2,000 exemplars in total (`--config.memory.policy=total --config.memory.size=2000`), crop, flip
and brightness (`--config.train.augmentation=crop+flip+brightness`), average / last (CIL survey):

    method        :base=50,increment=10    :base=0,increment=10
    finetune                               26.25 /  9.09
    lwf                                    43.56 / 23.25
    replay        52.36 / 41.26            59.31 / 41.01
    icarl (NME)   61.39 / 52.04            64.42 / 49.52
    bic           61.01 / 49.19            65.08 / 50.79
    wa            64.32 / 55.85            67.09 / 52.30
    podnet        64.45 / 55.21            55.22 / 36.78
    der           68.22 / 61.94            69.74 / 58.59
    memo          69.27 / 62.83            70.20 / 58.49
    foster        65.73 / 57.82            66.49 / 53.21

CCIL-SD (`:method=ccil --config.train.self_distillation_epochs=70`), 2,000 in total, augmentation
not stated: 67.17 for :base=50,increment=10 and 65.86 for increments of 5.

Last accuracy for :base=0,increment=20, 2,000 in total, crop and flip: il_baseline with
cross-entropy 40.34 (BiC, table 3), bic 56.69 (the same), wa 59.20 (WA, table 2).
Figures of the paper of the balanced loss are missing here.
"""

from ml_collections import ConfigDict

from bsce_jax import config
from bsce_jax.errors import unknown

RECIPES = ("published", "short")


def get_config(arg: str = "") -> ConfigDict:
    args = config.arguments(
        arg, method="il_baseline", loss=None, base=50, increment=10, recipe="published"
    )
    if args.recipe not in RECIPES:
        raise unknown("recipe", args.recipe, RECIPES)
    c = config.default(args.method, args.loss)
    c.dataset.name = "cifar100"
    c.scenario.base = args.base
    c.scenario.increment = args.increment
    c.model.name = "resnet32"
    c.train.epochs = 160
    c.train.augmentation = "crop+flip"
    if args.method in ("podnet", "afc"):
        c.model.name = "resnet32_podnet"
        c.train.schedule = "cosine"
        c.train.augmentation = "crop+flip+brightness"
    if args.method in ("der", "memo", "foster"):
        c.model.name = "resnet32_option_a"
        c.train.epochs = 170
        c.train.milestones = (80 / 170, 120 / 170, 150 / 170)
        c.train.augmentation = "crop+flip+brightness"
    if args.method == "foster":
        c.train.schedule = "cosine"
        c.method.compression_epochs = 130
    if args.method == "ccil":
        c.memory.selection = "random"
        c.train.epochs = 120
        c.train.batch_size = 100
        c.train.schedule = "cosine"
        c.train.later_learning_rate = 0.01
    if args.recipe == "short":
        c.train.epochs = 30
        c.train.later_epochs = 10
        c.train.schedule = "cosine"
        if args.method == "foster":
            c.method.compression_epochs = 0  # as many as of the training
    return c
