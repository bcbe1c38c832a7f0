"""ImageNet-Subset, 100 classes: 50 + 5x10 by default, ResNet-18, 90 epochs a task.

LUCIR's training: SGD at 0.1 falling tenfold at epochs 30 and 60, weight decay 1e-4, batch 128,
random resized crop and flip, 20 exemplars a class. LUCIR itself has a less-forget weight of 10
here, and is fine-tuned on the balanced memory unless the loss is balanced. PODNet has its own
ResNet-18, also brightness jitter, SGD at 0.05 with the cosine schedule, weight decay 5e-4, batch
64, POD-spatial 8, POD-flat 10, and fine-tuning at 0.01.

Two lists of 100 classes are in use. LUCIR's code takes, of the 1,000 sorted classes, the first 100
of numpy's permutation by the seed 1993 (`--classes 1993`). PODNet's code has them in the files
train_100.txt and val_100.txt (`--classes val_100.txt`): the first 100 of the sorted classes.
Figures of one list do not compare with those of the other.

Training crops are cut from the stored images while the devices compute, as torchvision's
RandomResizedCrop does. With `--config.train.augmentation=resized_crop+flip` they are cut on the
devices, from squares of `dataset.image_size` pixels; the squares then stay in device memory if they
fit (at 224 pixels the 129,000 training images take 19 GB). Test images are the central 87.5 %, as
with Resize(256) and CenterCrop(224).

    python -m bsce_jax.prepare imagenet_subset --classes 1993 \
        --source ARCHIVES --data_dir DATA_DIR

The images may also be in DATA_DIR/imagenet-subset/{train,val}/CLASS/*.jpg. If they
are in DATA_DIR/imagenet-subset-84px/ instead, set `--config.dataset.image_size=84` and
`--config.model.name=resnet18_cifar`.

    python -m bsce_jax.train --config imagenet_subset:method=lucir \
        --config.dataset.data_dir=DATA_DIR --workdir runs/subset

Published average incremental accuracy, in %, 20 exemplars a class, crop and flip, base 50 and
increments of 10 and 5 (AFEC, table 6): icarl (NME) 65.44; lucir 70.84 and 68.32; podnet 75.54 and
74.33.
"""

from ml_collections import ConfigDict

from bsce_jax import config


def get_config(arg: str = "") -> ConfigDict:
    args = config.arguments(arg, method="il_baseline", loss=None, base=50, increment=10)
    c = config.default(args.method, args.loss)
    c.dataset.name = "imagenet_subset"
    c.dataset.image_size = 224
    c.scenario.base = args.base
    c.scenario.increment = args.increment
    c.model.name = "resnet18"
    c.train.epochs = 90
    c.train.milestones = (1 / 3, 2 / 3)
    c.train.weight_decay = 1e-4
    c.train.augmentation = "source_crop+flip"
    c.runtime.dtype = "bfloat16"
    if args.method == "lucir":
        c.method.less_forget = 10.0
        c.method.finetune_epochs = 20
    if args.method in ("podnet", "afc"):
        c.model.name = "resnet18_podnet"
        c.train.augmentation = "source_crop+flip+brightness"
        c.train.batch_size = 64
        c.train.learning_rate = 0.05
        c.train.schedule = "cosine"
        c.train.weight_decay = 5e-4
        c.method.finetune_learning_rate = 0.01
    if args.method == "podnet":
        c.method.spatial = 8.0
        c.method.flat = 10.0
    if args.method == "afc":
        c.method.pixel = 10.0
    return c
