"""ImageNet, or a subset of it, as a tfds data set that is prepared and read without TensorFlow.

Its features are those of the stock `imagenet2012`: the bytes of an image file, the label and the
file's name. It is written in a staging folder, where an interrupted call goes on when it is made
again, and gets its name when it is complete.
"""

import contextlib
import dataclasses
import fcntl
import functools
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from bsce_jax.data import imagenet, imagenet_files, prepared
from bsce_jax.data.imagenet_files import SUBSET_SEED, Member
from bsce_jax.data.imagenet_shards import (
    QUALITY,
    SPLITS,
    Note,
    Shard,
    plan_shards,
    progress,
    sha256,
    write_shards,
)
from bsce_jax.data.source import digest
from bsce_jax.data.tfds_source import CHECKSUMS, labels_file, split_key, write_labels
from bsce_jax.errors import UserError, is_no_space, no_space
from bsce_jax.files import write_atomically

OFFICIAL = (1_281_167, 50_000)  # images of ImageNet's splits


@dataclasses.dataclass(frozen=True)
class Report:
    """What was prepared.

    Attributes:
      folder: of the prepared set.
      classes: number of them.
      images: number in each of `SPLITS`.
      size: of all files, in bytes.
      cmyk: names of images that had CMYK colours.
      other: names of images that are not JPEG.
      unreadable: names of the images that were left out.
    """

    folder: pathlib.Path
    classes: int
    images: tuple[int, int]
    size: int
    cmyk: tuple[str, ...]
    other: tuple[str, ...]
    unreadable: tuple[str, ...]


def prepare(
    name: str,
    source: pathlib.Path,
    data_dir: pathlib.Path,
    size: int | None = None,
    classes: str | None = None,
    max_unreadable: int = 0,
) -> Report:
    """Prepare ImageNet or a subset of it in a data folder.

    Stopped at any time, it goes on where it was when it is called again.

    Args:
      name: of the data set, "imagenet" or "imagenet_subset".
      source: the folder of the images, see `imagenet_files`.
      data_dir: the data folder.
      size: height and width of the JPEGs to store: whole centre squares, resized. None: the files
        are stored as they are.
      classes: see `imagenet_files.choose_classes`; None for all.
      max_unreadable: images that cannot be decoded may be left out, up to this number.

    Raises:
      UserError: the source is not ImageNet or is damaged, too many images are unreadable, another
        process prepares in this folder, or it cannot be written.
    """
    with progress("listing the images", None, ""):
        found = imagenet_files.find(source)
    names = sorted({member.class_name for member in found[0]})
    if classes is None and name == "imagenet_subset" and len(names) == imagenet_files.CLASSES:
        raise UserError(
            f"{source} has {len(names)} classes: choose those of the subset with --classes"
        )
    chosen = names if classes is None else imagenet_files.choose_classes(names, classes)
    labels = {class_name: label for label, class_name in enumerate(chosen)}
    splits = [_sorted(members, labels) for members in found]
    for split, members in zip(SPLITS, splits, strict=True):
        if missing := labels.keys() - {member.class_name for member in members}:
            raise UserError(f"no {split} images of class {min(missing)} in {source}")
    folder = data_dir / imagenet.PREPARED[name][0]
    options = {"size": size, "quality": size and QUALITY, "classes": _choice(classes)}
    shards = plan_shards(name, splits, labels, size)
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with _locked(data_dir):
            staging = data_dir / f".incomplete-{name}"
            staging.mkdir(exist_ok=True)
            notes = write_shards(staging, shards, labels, size, max_unreadable)
            _finish(name, staging, chosen, shards, notes, options)
            folder.parent.mkdir(exist_ok=True)
            os.replace(staging, folder)
            for shard in shards:  # only now: until then they say what is complete
                (folder / shard.note).unlink()
    except (OSError, RuntimeError) as error:  # array_record's errors are RuntimeErrors
        if is_no_space(error):
            raise no_space(data_dir) from error
        raise UserError(f"cannot write to {data_dir}: {error}") from error
    return Report(
        folder=folder,
        classes=len(chosen),
        images=(_count(notes, SPLITS[0]), _count(notes, SPLITS[1])),
        size=sum(note["bytes"] for note in notes),
        **{kind: _names(notes, kind) for kind in ("cmyk", "other", "unreadable")},
    )


def check_options(folder: pathlib.Path, size: int | None, classes: str | None) -> None:
    """Check that a prepared set was made with these options, as far as they are given.

    Args:
      folder: of the prepared set.
      size, classes: see `prepare`; None for any.

    Raises:
      UserError: it was made with others.
    """
    made = prepared.open_builder(folder).info.metadata or {}
    other = f"in {folder}: delete it, or choose another --data_dir"
    if size not in (None, made.get("size")):
        kept = f"{made['size']}x{made['size']} pixels" if made.get("size") else "the original files"
        raise UserError(f"--size is {size}, and a set with {kept} is prepared already, {other}")
    if classes is not None and made.get("classes") != _choice(classes):
        raise UserError(f"a set with other --classes is prepared already, {other}")


def verify(folder: pathlib.Path) -> int:
    """Compare the files of a prepared set with their SHA-256; return their number.

    Raises:
      UserError: a file is missing or different, or there are no checksums.
    """
    file = folder / CHECKSUMS
    try:
        lines = file.read_text().splitlines()
        with progress("verifying", len(lines), "files") as advance:
            for line in lines:
                expected, name = line.split("  ", 1)
                if sha256(folder / name) != expected:
                    raise UserError(
                        f"{folder / name} is damaged: its SHA-256 is not that of {file}; delete "
                        f"{folder} and prepare it again"
                    )
                advance(1)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot verify {folder}: {error}") from error
    return len(lines)


def _sorted(members: Sequence[Member], labels: dict[str, int]) -> list[Member]:
    """Choose the members of some classes: class by class, each by file name."""
    chosen = [member for member in members if member.class_name in labels]
    return sorted(chosen, key=lambda member: (labels[member.class_name], member.name))


def _choice(classes: str | None) -> str:
    """Make what the metadata keeps of `--classes`: all, the seed, or a digest of the file."""
    if classes in (None, SUBSET_SEED):
        return classes or "all"
    return digest(imagenet_files.read_list(pathlib.Path(classes or "")).encode())


def _finish(
    name: str,
    folder: pathlib.Path,
    class_names: Sequence[str],
    shards: Sequence[Shard],
    notes: Sequence[Note],
    options: dict[str, Any],
) -> None:
    """Add the metadata, the checksums and the labels."""
    template = functools.partial(
        tfds.core.ShardedFileTemplate,
        data_dir=folder,
        dataset_name=name,
        filetype_suffix="array_record",
    )
    features = {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(names=class_names),
        "file_name": tfds.features.Text(),
    }
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=tfds.features.FeaturesDict(features),
        split_infos=[
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[len(n["labels"]) for n in notes if n["split"] == split],
                num_bytes=sum(n["record_bytes"] for n in notes if n["split"] == split),
                filename_template=template(split=split),
            )
            for split in SPLITS
        ],
        version=imagenet.VERSION,
        check_data=False,
        description=f"{len(class_names)} classes of ImageNet (ILSVRC 2012).",
        homepage="https://image-net.org",
        disable_shuffling=True,
        metadata=tfds.core.MetadataDict(options, unreadable=_names(notes, "unreadable")),
    )
    sums = {shard.file: note["sha256"] for shard, note in zip(shards, notes, strict=True)}
    left = {path.name for path in folder.iterdir()} - sums.keys() - {s.note for s in shards}
    sums |= {file: sha256(folder / file) for file in left}
    lines = "".join(f"{sums[file]}  {file}\n" for file in sorted(sums))
    write_atomically(folder / CHECKSUMS, lambda f: f.write(lines.encode()))
    builder = prepared.open_builder(folder)
    for split in SPLITS:
        labels = [label for note in notes if note["split"] == split for label in note["labels"]]
        key = split_key(folder, builder, split)
        write_labels(labels_file(folder, key), np.array(labels, np.int32))


def _names(notes: Sequence[Note], kind: str) -> tuple[str, ...]:
    return tuple(name for note in notes for name in note[kind])


def _count(notes: Sequence[Note], split: str) -> int:
    return sum(len(note["labels"]) for note in notes if note["split"] == split)


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
    """Keep other processes from preparing in the same folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another process is preparing a data set in {folder}") from error
        yield
    finally:
        os.close(handle)
