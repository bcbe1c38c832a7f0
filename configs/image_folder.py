"""Your own photos: a folder for each class, a few hundred to a few thousand photos in all.

    python -m bsce_jax.prepare image_folder --source PHOTOS --data_dir data/mine
    python -m bsce_jax.train --config image_folder:base=6 \\
        --config.dataset.data_dir=data/mine --workdir runs/mine

`base` is the number of classes of the first task: all that there are, in the command that `prepare`
prints. Classes that come later are learned with `--extend RUN`. With fewer, the rest follow in
tasks of `increment` classes, which shows how a method does when classes arrive over time.

ResNet-32 on 64x64 pixels suits a CPU. On a GPU take larger images and a network for them, best
with pretrained weights (torchvision's, see README):

    --config.dataset.image_size=224 --config.model.name=resnet18
    --config.model.init=resnet18.safetensors --config.train.learning_rate=0.01
    --config.runtime.dtype=bfloat16

Choose hyper-parameters with `--config.dataset.validation=0.1`: a tenth of the training photos of
each class is then evaluated, and the test photos are not looked at.
"""

from ml_collections import ConfigDict

from bsce_jax import config


def get_config(arg: str = "") -> ConfigDict:
    args = config.arguments(arg, method="il_baseline", loss=None, base=2, increment=2)
    c = config.default(args.method, args.loss)
    c.dataset.name = "image_folder"
    c.dataset.image_size = 64
    c.scenario.base = args.base
    c.scenario.increment = args.increment
    c.model.name = "resnet32"
    c.train.epochs = 60
    c.train.batch_size = 32
    c.train.learning_rate = 0.05
    c.train.schedule = "cosine"
    c.train.augmentation = "resized_crop+flip"
    return c
