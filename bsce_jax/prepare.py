"""Prepare a data set in a data folder, where training finds it.

Examples:
  python -m bsce_jax.prepare cifar100 --data_dir data
      download it (169 MB)
  python -m bsce_jax.prepare cifar100 --source ~/cifar-100-python.tar.gz --data_dir data
      use the official archive or the unpacked cifar-100-python folder; needs no network
  python -m bsce_jax.prepare imagenet --source ~/ILSVRC2012 --data_dir data --size 256
      from the official archives ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, with
      ILSVRC2012_devkit_t12.tar.gz or a val.txt of lines `FILE CLASS`, or from a folder with
      train/CLASS/*.JPEG and val/CLASS/*.JPEG. The same command goes on after an interruption.
      Without --size the files are stored as they are
  python -m bsce_jax.prepare imagenet_subset --classes 1993 --source ~/ILSVRC2012 --data_dir data
      the 100 classes of LUCIR's code, chosen by the seed 1993. A FILE will do as well: classes, one
      a line, or lines such as `val/n01440764/NAME.JPEG 0` with a label, as PODNet's val_100.txt
  python -m bsce_jax.prepare imagenet --data_dir data --verify
      compare the files with their SHA-256
  python -m bsce_jax.prepare image_folder --source PHOTOS --data_dir data/mine
      your own photos: PHOTOS has a folder for each class, or train/ and val/ (or test/) with such
      folders, or train.txt and val.txt with lines `FILE CLASS`, or the layout of Tiny-ImageNet.
      Without test images, a fifth of each class is held out. Every file is checked, and nothing is
      copied: data/mine/images.json lists the photos, report.txt what is left out. After photos were
      added, removed or moved, the same command lists them anew; test images stay test images
  python -m bsce_jax.prepare tfds:imagenet2012 --source ~/ILSVRC2012 --data_dir data
      a set of tensorflow-datasets; --source is its folder of manual downloads. It needs TensorFlow
      (pip install 'bsce_jax[tf]'); training then does not

JPEG, PNG, WebP, BMP, GIF and TIFF files are read.

Exit codes: 0 done; 2 bad input; 3 no space left; 130 stopped by Ctrl-C. After that the next call
of imagenet goes on where it was, other data sets start anew.
"""

import argparse
import http.client
import importlib.util
import os
import pathlib
import shlex
import shutil
import tempfile
import urllib.request
from collections.abc import Sequence

from bsce_jax.cli import Parser, local_path
from bsce_jax.data import DATASETS, NAMES, TFDS, cifar100
from bsce_jax.errors import (
    UserError,
    exit_on_user_error,
    in_one_line,
    is_no_space,
    no_space,
    unknown,
)

TIMEOUT = 10  # seconds without an answer
LISTED = 10  # names of images that a report lists


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
      argv: its arguments; None means those of the process.

    Raises:
      UserError: the data set is not available, or cannot be written.
    """
    parser = Parser(prog="python -m bsce_jax.prepare", description=__doc__)
    parser.add_argument("dataset", help=f"one of: {', '.join(NAMES)}")
    parser.add_argument("--source", type=local_path, help="the official archive or folder")
    parser.add_argument(
        "--data_dir", type=local_path, default="data", help="folder of data sets (default: data)"
    )
    imagenet = ("imagenet", "imagenet_subset")
    both = parser.add_argument_group("imagenet, imagenet_subset and image_folder only")
    both.add_argument(
        "--max_unreadable", type=int, metavar="N", help="images that may be left out (default: 0)"
    )
    only = parser.add_argument_group("imagenet and imagenet_subset only")
    only.add_argument("--size", type=int, help="store square JPEGs of this height and width")
    only.add_argument("--classes", metavar="FILE|1993", help="the classes of imagenet_subset")
    only.add_argument("--verify", action="store_true", help="compare the files with their SHA-256")
    folder = parser.add_argument_group("image_folder only")
    folder.add_argument(
        "--test_fraction", type=float, metavar="F", help="of each class to hold out (default: 0.2)"
    )
    folder.add_argument("--seed", type=int, help="of the choice of these (default: 0)")
    args = parser.read(argv)
    for options, sets in (
        (("max_unreadable",), (*imagenet, "image_folder")),
        (("size", "classes", "verify"), imagenet),
        (("test_fraction", "seed"), ("image_folder",)),
    ):
        for option in options:
            given = getattr(args, option)
            if given is not None and given is not False and args.dataset not in sets:
                raise UserError(f"--{option} is for {' and '.join(sets)}, not {args.dataset}")
    if args.max_unreadable is not None and args.max_unreadable < 0:
        raise UserError(f"--max_unreadable is {args.max_unreadable}: choose 0 or more")
    if args.dataset in imagenet:
        prepare_imagenet(args)
        return
    if args.dataset == "image_folder":
        prepare_folder(args)
        return
    if args.dataset == "cifar100":
        prepare_cifar100(args.source, args.data_dir)
    elif args.source is not None and args.dataset in DATASETS:
        raise UserError(f"--source {args.source} is not for {args.dataset}: it takes none")
    elif args.dataset == "digits":
        print("digits comes with the package: nothing to prepare")
    elif args.dataset in DATASETS:
        print(f"{args.dataset} is read directly from --config.dataset.data_dir: nothing to prepare")
    elif args.dataset in NAMES:
        prepare_tfds(args.dataset.removeprefix(TFDS), args.source, args.data_dir)
    else:
        raise unknown("data set", args.dataset, NAMES)


def prepare_imagenet(args: argparse.Namespace) -> None:
    """Prepare ImageNet or a subset of it, unless it is there already, or verify it.

    Args:
      args: of the command line.

    Raises:
      UserError: invalid arguments, or for a reason of `imagenet_builder`.
    """
    from bsce_jax.data import imagenet, imagenet_builder  # imports tfds, which is slow

    name = args.dataset
    folder = args.data_dir / imagenet.PREPARED[name][0]
    if args.verify:
        print(f"{imagenet_builder.verify(folder)} files of {folder} have their SHA-256")
        return
    if os.path.isdir(folder):
        imagenet_builder.check_options(folder, args.size, args.classes)
        print(f"{name} is prepared already, in {folder}")
        return
    if args.source is None:
        raise UserError(f"--source is missing: the folder of the archives or images of {name}")
    if args.size is not None and not 1 <= args.size <= 10_000:
        raise UserError(f"--size is {args.size}: it must be 1 to 10,000 pixels")
    if args.classes is not None and name == "imagenet":
        raise UserError("--classes is for imagenet_subset: imagenet has all classes of its source")
    report = imagenet_builder.prepare(
        name, args.source, args.data_dir, args.size, args.classes, args.max_unreadable or 0
    )
    train, test = report.images
    print(f"{name} is prepared, in {report.folder}")
    print(f"{report.classes} classes, {train:,} training and {test:,} test images")
    print(f"{report.size / 1e6:,.1f} MB" + (f", {args.size}x{args.size} pixels" * bool(args.size)))
    for what, names in (
        ("CMYK", report.cmyk),
        ("not JPEG", report.other),
        ("unreadable, left out", report.unreadable),
    ):
        if names:
            more = ", ..." if len(names) > LISTED else ""
            print(f"{len(names)} {what}: {', '.join(names[:LISTED])}{more}")
    official = imagenet_builder.OFFICIAL
    if name == "imagenet" and report.images != official:
        print(f"ImageNet has {official[0]:,} training and {official[1]:,} test images")


def prepare_folder(args: argparse.Namespace) -> None:
    """List the photos of a folder, and print how to train on them.

    Args:
      args: of the command line.

    Raises:
      UserError: invalid arguments, or for a reason of `folder_builder`.
    """
    from bsce_jax.data import folder_builder, listing  # import Pillow

    if args.source is None:
        raise UserError("--source is missing: the folder of your photos")
    report = folder_builder.prepare(
        args.source, args.data_dir, args.test_fraction, args.seed, args.max_unreadable or 0
    )
    for line in report.summary:
        print(in_one_line(line))
    if report.left_out:
        print(f"each is named in {args.data_dir / folder_builder.REPORT}")
    print(f"listed in {args.data_dir / listing.FILE}, which training reads:")
    field = shlex.quote(f"--config.dataset.data_dir={args.data_dir}")
    command = f"  python -m bsce_jax.train {field} --workdir runs/mine"
    print(f"{command} --config image_folder:base={report.classes}")
    if report.new_classes:
        print(f"a finished run learns the new classes:\n{command}2 --extend runs/mine")


def prepare_tfds(name: str, manual: pathlib.Path | None, data_dir: pathlib.Path) -> None:
    """Prepare a set of tensorflow-datasets as array_record, with TensorFlow.

    Args:
      name: `NAME[:VERSION]`.
      manual: the folder of its manual downloads, if it needs any.
      data_dir: the data folder.

    Raises:
      UserError: TensorFlow is not installed, or tfds cannot prepare the set.
    """
    from bsce_jax.data import prepared  # imports tfds, which is slow

    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            f"preparing {TFDS}{name} needs TensorFlow: pip install 'bsce_jax[tf]', here or on "
            "another machine; reading it afterwards does not"
        )
    print(f"{TFDS}{name} is prepared, in {prepared.make(name, manual, data_dir)}")


def prepare_cifar100(source: pathlib.Path | None, data_dir: pathlib.Path) -> None:
    """Prepare CIFAR-100, unless it is there already.

    Args:
      source: the official archive or the unpacked folder; None to download the archive.
      data_dir: the data folder.

    Raises:
      UserError: the data is not available, is not the official one, or cannot be written.
    """
    prepared = data_dir / cifar100.PREPARED
    if os.path.isdir(prepared):
        print(f"cifar100 is prepared already, in {prepared}")
        return
    if source is None and (folder := cifar100.official_folder(data_dir)):
        print(f"cifar100 is read straight from {folder}: nothing to prepare")
        return

    from bsce_jax.data import cifar100_builder  # imports tfds, which is slow

    if source is None:
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="download-", dir=data_dir) as download:
                archive = pathlib.Path(download, "cifar-100-python.tar.gz")
                _download(archive, data_dir)
                cifar100_builder.prepare(archive, data_dir)
        except OSError as error:
            if is_no_space(error):
                raise no_space(data_dir) from error
            raise UserError(f"cannot write to {data_dir}: {error.strerror}") from error
    else:
        cifar100_builder.prepare(source, data_dir)
    print(f"cifar100 is prepared, in {prepared}")


def _download(archive: pathlib.Path, data_dir: pathlib.Path) -> None:
    from rich.progress import wrap_file

    try:
        with (
            urllib.request.urlopen(cifar100.URL, timeout=TIMEOUT) as response,
            archive.open("wb") as f,
        ):
            size = int(response.headers.get("Content-Length", 0))
            with wrap_file(response, size, description="downloading cifar100") as body:
                shutil.copyfileobj(body, f, 1 << 20)
    except (OSError, http.client.HTTPException) as error:
        if is_no_space(error):
            raise no_space(data_dir) from error
        raise UserError(
            f"cannot download {cifar100.URL} ({getattr(error, 'reason', error)}); get the file "
            "another way and give it to `python -m bsce_jax.prepare cifar100 --source PATH "
            f"--data_dir {shlex.quote(str(data_dir))}`"
        ) from error


if __name__ == "__main__":
    exit_on_user_error(main)
