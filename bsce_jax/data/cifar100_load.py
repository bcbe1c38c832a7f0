"""CIFAR-100 by its name: the unpacked official files, or the tfds data set made from them.

`python -m bsce_jax.prepare` makes the data set. Both give the same arrays, in the same order.
"""

import os
import pathlib
import shlex

from bsce_jax.data import cifar100
from bsce_jax.data.source import DATASETS, Dataset
from bsce_jax.errors import UserError


@DATASETS.register("cifar100")
def load(data_dir: pathlib.Path, image_size: int | None = None) -> Dataset:
    """Load CIFAR-100 from a data folder: the official folder in it, else the prepared data.

    Args:
      data_dir: contains `cifar-100-python/` or `cifar100_python/`.
      image_size: not used; see `Dataset.resized`.

    Raises:
      UserError: it contains neither, or the files are damaged.
    """
    if folder := cifar100.official_folder(data_dir):
        return cifar100.read_official(folder)
    if os.path.isdir(data_dir / cifar100.PREPARED):
        from bsce_jax.data import cifar100_builder  # imports tfds, which only prepared data needs

        return cifar100_builder.read(data_dir)
    target = shlex.quote(str(data_dir))
    raise UserError(
        f"no CIFAR-100 in {data_dir}; either download it with "
        f"`python -m bsce_jax.prepare cifar100 --data_dir {target}`, or use what you have with "
        f"`python -m bsce_jax.prepare cifar100 --source PATH --data_dir {target}`, "
        f"PATH being {cifar100.FOLDER}.tar.gz or the unpacked {cifar100.FOLDER} folder"
    )
