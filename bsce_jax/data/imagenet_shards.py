"""The files of records of a set that is being prepared, each with a note when it is complete.

A shard is a file of up to `SHARD` images. Its note has what the end report and the metadata need,
and the plan that it was written by; so an interrupted preparation goes on after the last complete
shard of the same plan.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from array_record.python import array_record_module
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

from bsce_jax.data.decode import RULES, check, decode, open_image, threads, whole_square
from bsce_jax.data.imagenet_files import Member
from bsce_jax.data.source import digest
from bsce_jax.errors import UserError
from bsce_jax.files import write_json

QUALITY = 90  # of the JPEGs that are written
SHARD = 2000  # images of a file
SPLITS = ("train", "validation")

# what is known of a complete shard: plan, split, labels, bytes, sha256, names of unusual images
Note = dict[str, Any]
Advance = Callable[[int], object]


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file of records.

    Attributes:
      split: one of `SPLITS`.
      file: its name.
      members: its images.
      plan: a digest of all that decides its contents, apart from the images' bytes.
    """

    split: str
    file: str
    members: Sequence[Member]
    plan: str

    @property
    def note(self) -> str:
        """The name of the note's file."""
        return f"{self.file}.json"


@dataclasses.dataclass(frozen=True)
class _Image:
    """An image that is ready to be written: its file's contents, and what the file was before."""

    content: bytes
    cmyk: bool
    other: bool


def plan_shards(
    name: str, splits: Sequence[Sequence[Member]], labels: dict[str, int], size: int | None
) -> list[Shard]:
    """Divide the images of the splits into shards.

    Args:
      name: of the data set.
      splits: the images of each of `SPLITS`, in the order of their records.
      labels: of the classes.
      size: height and width that images are resized to; None to store the files as they are.
    """
    found = []
    for split, members in zip(SPLITS, splits, strict=True):
        total = -(-len(members) // SHARD)
        for number in range(total):
            part = members[number * SHARD : (number + 1) * SHARD]
            images = [[m.class_name, labels[m.class_name], m.name, m.size] for m in part]
            facts = [RULES, size, QUALITY, images]
            file = f"{name}-{split}.array_record-{number:05}-of-{total:05}"
            found.append(Shard(split, file, part, digest(json.dumps(facts).encode())))
    return found


def write_shards(
    folder: pathlib.Path,
    shards: Sequence[Shard],
    labels: dict[str, int],
    size: int | None,
    max_unreadable: int,
) -> list[Note]:
    """Write the shards that are not complete yet, and remove other files; return all notes.

    Args:
      folder: of the shards.
      shards: to write.
      labels, size: see `plan_shards`.
      max_unreadable: images that cannot be decoded are left out, up to this number.

    Raises:
      UserError: more images cannot be decoded, or a file cannot be read.
    """
    wanted = {file for shard in shards for file in (shard.file, shard.note)}
    for path in folder.iterdir():
        if path.name not in wanted:  # of another plan
            path.unlink()
    notes = []
    allowed = max_unreadable
    with progress("preparing", sum(len(shard.members) for shard in shards), "images") as advance:
        for shard in shards:
            note = _read_note(folder, shard)
            if note is None:
                note = _write_shard(folder, shard, labels, size, allowed, advance)
            else:
                advance(len(shard.members))
            notes.append(note)
            allowed -= len(note["unreadable"])
            if allowed < 0:
                raise UserError(
                    f"{max_unreadable - allowed} images are unreadable, and --max_unreadable is "
                    f"{max_unreadable}: {note['unreadable'][0]} is one"
                )
    return notes


def _write_shard(
    folder: pathlib.Path,
    shard: Shard,
    labels: dict[str, int],
    size: int | None,
    allowed: int,
    advance: Advance,
) -> Note:
    """Write a shard and its note; at most `allowed` images may be unreadable."""
    note: Note = {"plan": shard.plan, "split": shard.split, "labels": [], "record_bytes": 0}
    note |= {"cmyk": [], "other": [], "unreadable": []}
    writer = array_record_module.ArrayRecordWriter(str(folder / shard.file), "group_size:1")
    images = threads().map(functools.partial(_load, size=size), shard.members)
    for member, image in zip(shard.members, images, strict=True):
        advance(1)
        if isinstance(image, UserError):
            note["unreadable"].append(member.name)
            if len(note["unreadable"]) > allowed:
                raise UserError(
                    f"{image}; repair the source, or leave out up to N such images with "
                    "--max_unreadable=N"
                ) from image
            continue
        label = labels[member.class_name]
        record = _record(image.content, label, member.name)
        writer.write(record)
        note["labels"].append(label)
        note["record_bytes"] += len(record)
        note["cmyk"] += [member.name] * image.cmyk
        note["other"] += [member.name] * image.other
    writer.close()
    with open(folder / shard.file, "rb") as f:
        os.fsync(f.fileno())
    note["bytes"] = os.path.getsize(folder / shard.file)
    note["sha256"] = sha256(folder / shard.file)
    write_json(folder / shard.note, note)
    return note


def _load(member: Member, size: int | None) -> _Image | UserError:
    """Read and check an image, and resize it; return what is wrong with one that is unreadable."""
    content = member.read()
    try:
        if size is None:
            image = check(content, member)
        else:
            image = open_image(content, member)
            file = io.BytesIO()
            square = whole_square(decode(content, member), size)
            square.save(file, "JPEG", quality=QUALITY)
            content = file.getvalue()
    except UserError as error:
        return error
    return _Image(content, cmyk=image.mode == "CMYK", other=image.format != "JPEG")


def _record(content: bytes, label: int, file_name: str) -> bytes:
    """Serialise a record as tfds does, but so that equal records have equal bytes everywhere."""

    def text(value: bytes) -> Any:
        return tf_feature_pb2.Feature(bytes_list=tf_feature_pb2.BytesList(value=[value]))

    number = tf_feature_pb2.Feature(int64_list=tf_feature_pb2.Int64List(value=[label]))
    features = {"image": text(content), "label": number, "file_name": text(os.fsencode(file_name))}
    example = tf_example_pb2.Example(features=tf_feature_pb2.Features(feature=features))
    record: bytes = example.SerializeToString(deterministic=True)
    return record


def _read_note(folder: pathlib.Path, shard: Shard) -> Note | None:
    """Read the note of a shard; None if it was not completed, or belongs to another plan."""
    try:
        note: Note = json.loads((folder / shard.note).read_text())
        complete = os.path.getsize(folder / shard.file) == note["bytes"]
    except (OSError, KeyError, ValueError):
        return None
    return note if complete and note["plan"] == shard.plan else None


def sha256(file: pathlib.Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal."""
    with open(file, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


@contextlib.contextmanager
def progress(what: str, total: int | None, unit: str) -> Iterator[Advance]:
    """Show a progress bar on a terminal; yields what moves it on.

    Args:
      what: is done.
      total: number of steps, None if it is not known.
      unit: what is counted.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(what, total=total)
        yield functools.partial(bar.advance, task)
