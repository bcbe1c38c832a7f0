"""ImageNet and its subsets: the prepared set where there is one, else the images in folders."""

import dataclasses
import os
import pathlib
import shlex

from bsce_jax.data import image_folder, layouts
from bsce_jax.data.source import Dataset
from bsce_jax.errors import UserError

VERSION = "1.0.0"  # of the sets that `python -m bsce_jax.prepare` makes
# by data set: its prepared folders below a data folder, and the folders that hold train/ and val/;
# the first that exists is read. imagenet2012 is the stock set of tfds
PREPARED = {
    "imagenet": (f"imagenet/{VERSION}", "imagenet2012/5.1.0", "imagenet2012/5.0.0"),
    "imagenet_subset": (f"imagenet_subset/{VERSION}",),
}
FOLDERS = {
    "imagenet": ("imagenet", "."),
    "imagenet_subset": ("imagenet-subset", "imagenet-subset-84px"),
}


def load(name: str, data_dir: pathlib.Path, image_size: int | None) -> Dataset:
    """Open ImageNet or a subset of it.

    Args:
      name: a key of `PREPARED`.
      data_dir: has one of the folders of `PREPARED` or `FOLDERS`.
      image_size: height and width of every image, in pixels.

    Raises:
      UserError: it has none of them, or for a reason of `prepared.read` or `image_folder.load`.
    """
    for folder in PREPARED[name]:
        if os.path.isfile(data_dir / folder / "dataset_info.json"):
            from bsce_jax.data import prepared  # imports tfds, which is slow

            return dataclasses.replace(prepared.read(data_dir / folder, image_size), name=name)
    for folder in FOLDERS[name]:
        if os.path.isdir(data_dir / folder / "train"):
            return dataclasses.replace(image_folder.load(data_dir / folder, image_size), name=name)
    places = [folder for folder in FOLDERS[name] if folder != "."]
    raise UserError(
        f"no {name} in {data_dir}: put it there as {' or '.join(places)}, a folder with "
        f"{layouts.LAYOUT}, or prepare it with `python -m bsce_jax.prepare {name} --source "
        f"PATH --data_dir {shlex.quote(str(data_dir))}`"
    )
