"""ImageNet, 1,000 classes in 10 tasks of 100, ResNet-18, 90 epochs a task, 20,000 exemplars.

As `configs/imagenet_subset.py`, except for PODNet's weight decay of 1e-4, a memory of 20,000
exemplars in total and, since the images are small, a ResNet-18 with a 3x3 stem for all methods. The
images are those that were prepared in DATA_DIR from the official archives, or of a tfds
`imagenet2012` prepared as array_record there, or lie in DATA_DIR/imagenet/{train,val}/CLASS/*.JPEG
or DATA_DIR/{train,val}/CLASS/*.JPEG. With `--size 256` they are decoded and resized once,
and are smaller and faster to read; without it the files are kept as they are. Crops are cut from
the stored images while the devices compute, see `configs/imagenet_subset.py`. The published figures
are for 224 pixels (`--config.dataset.image_size=224 --config.model.name=resnet18`); with the 64
pixels of this config a run is an order of magnitude shorter.

    python -m bsce_jax.prepare imagenet --source ARCHIVES --data_dir DATA_DIR --size 256
    python -m bsce_jax.train --config imagenet:method=wa \
        --config.dataset.data_dir=DATA_DIR --workdir runs/imagenet

Published average incremental accuracy, top-1 in %, 20,000 exemplars in total, base 0 and increments
of 100, crop and flip (SS-IL, table 1): icarl (NME) 53.1, lucir 56.5, podnet 60.4, bic 60.5, eeil
60.9, ss_il 65.2; wa 65.67, last 55.60 (DyTox).
"""

from ml_collections import ConfigDict

from bsce_jax import config


def get_config(arg: str = "") -> ConfigDict:
    args = config.arguments(arg, method="il_baseline", loss=None, base=0, increment=100)
    c = config.default(args.method, args.loss)
    c.dataset.name = "imagenet"
    c.dataset.image_size = 64
    c.scenario.base = args.base
    c.scenario.increment = args.increment
    if c.memory.size:
        c.memory.policy = "total"
        c.memory.size = 20_000
    c.model.name = "resnet18_cifar"
    c.train.epochs = 90
    c.train.milestones = (1 / 3, 2 / 3)
    c.train.weight_decay = 1e-4
    c.train.augmentation = "source_crop+flip"
    c.runtime.dtype = "bfloat16"
    if args.method == "lucir":
        c.method.less_forget = 10.0
        c.method.finetune_epochs = 20
    if args.method in ("podnet", "afc"):
        c.train.augmentation = "source_crop+flip+brightness"
        c.train.batch_size = 64
        c.train.learning_rate = 0.05
        c.train.schedule = "cosine"
        c.method.finetune_learning_rate = 0.01
    if args.method == "podnet":
        c.method.spatial = 8.0
        c.method.flat = 10.0
    if args.method == "afc":
        c.method.pixel = 10.0
    return c
