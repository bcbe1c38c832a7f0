"""Where ImageNet's images are: in the official archives, or in folders.

    SOURCE/ILSVRC2012_img_train.tar    an archive for each class, n01440764.tar and so on
    SOURCE/ILSVRC2012_img_val.tar      with SOURCE/ILSVRC2012_devkit_t12.tar.gz, or with
                                       SOURCE/val.txt of lines such as
                                       `ILSVRC2012_val_00000001.JPEG n01751748`, or with a number
                                       for the class, its position among the sorted classes
    SOURCE/train/CLASS/*.JPEG          or these; test/ will do for val/
    SOURCE/val/CLASS/*.JPEG

Archives are not unpacked: an image is some bytes at a place of a file.
"""

import contextlib
import dataclasses
import io
import os
import pathlib
import tarfile
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from bsce_jax.data import layouts
from bsce_jax.data.image_folder import size_of
from bsce_jax.errors import UserError

TRAIN_ARCHIVE = "ILSVRC2012_img_train.tar"
TEST_ARCHIVE = "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
TEST_LIST = "val.txt"
# the seed by which LUCIR and those after it choose 100 classes
SUBSET_SEED = "1993"
# classes of the whole data set
CLASSES = 1000


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """One image.

    Attributes:
      class_name: the synset, such as "n01440764".
      name: of the image file, without folders.
      file: path of the file that contains it; texts, since a million paths take a gigabyte.
      start: where it starts in `file`, in bytes.
      size: in bytes.
    """

    class_name: str
    name: str
    file: str
    start: int
    size: int

    def __str__(self) -> str:
        own = os.path.basename(self.file) == self.name
        return self.file if own else os.path.join(self.file, self.name)

    def read(self) -> bytes:
        """Read the bytes of the image file.

        Raises:
          UserError: they cannot be read.
        """
        try:
            with open(self.file, "rb") as f:
                f.seek(self.start)
                return f.read(self.size)
        except OSError as error:
            raise UserError(f"cannot read {self.file}: {error.strerror}") from error


def find(source: pathlib.Path) -> tuple[list[Member], list[Member]]:
    """List the training and the test images of a source; their contents are not read.

    Args:
      source: a folder of the layouts above.

    Raises:
      UserError: it has neither layout, or is damaged.
    """
    if (source / TRAIN_ARCHIVE).is_file():
        train = list(_of_class_archives(source / TRAIN_ARCHIVE))
        names = sorted({member.class_name for member in train})
        return train, list(_of_test_archive(source, names))
    if (source / "train").is_dir():
        found = layouts.find(source)
        if found.test is None:
            raise UserError(f"no test images in {source}: it should hold {layouts.LAYOUT}")
        return _of_split(found.train), _of_split(found.test)
    raise UserError(
        f"no ImageNet in {source}: it should hold {TRAIN_ARCHIVE} and {TEST_ARCHIVE}, or "
        f"{layouts.LAYOUT}"
    )


def choose_classes(names: Sequence[str], wanted: str) -> list[str]:
    """Choose classes for a subset, in the order of their labels.

    Args:
      names: of the classes of the source, sorted.
      wanted: "1993" for the 100 classes of LUCIR's code: of the 1,000 sorted classes, the first 100
        of numpy's permutation by that seed, sorted again. Else a text file of classes: in every
        line a class, or `.../CLASS/FILE LABEL` as in PODNet's train_100.txt, where labels count
        from 0. Without labels the classes are sorted.

    Raises:
      UserError: the source lacks a class, or the file has another format.
    """
    if wanted == SUBSET_SEED:
        if len(names) != CLASSES:
            raise UserError(
                f"--classes {wanted} chooses among {CLASSES} classes: the source has {len(names)}"
            )
        chosen = np.random.RandomState(int(wanted)).permutation(CLASSES)[:100]
        return sorted(names[i] for i in chosen)
    file = pathlib.Path(wanted)
    lines = [line.split() for line in read_list(file).splitlines() if line.strip()]
    labels: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        path = pathlib.PurePosixPath(line[0])
        name = path.parent.name or path.name
        if len(line) > 2 or (len(line) == 2 and not line[1].isdecimal()):
            raise UserError(f"{file}, line {number}: give a class, or CLASS/FILE and its label")
        label = int(line[1]) if len(line) == 2 else 0
        if labels.setdefault(name, label) != label:
            raise UserError(f"{file}, line {number}: class {name} had label {labels[name]} before")
        if name not in names:
            raise UserError(f"{file}, line {number}: no class {name} in the source")
    chosen_names = sorted(labels, key=lambda name: (labels[name], name))
    found = [labels[name] for name in chosen_names]
    if any(found) and found != list(range(len(found))):
        raise UserError(f"labels of {file} must be 0 to {len(found) - 1}, one for each class")
    if not chosen_names:
        raise UserError(f"{file} has no classes")
    return chosen_names


def read_list(file: pathlib.Path) -> str:
    """Read a list of classes.

    Raises:
      UserError: it cannot be read.
    """
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot read --classes {file}: {getattr(error, 'strerror', error)}; give a list of "
            f"classes, or {SUBSET_SEED}"
        ) from error


def _of_split(split: layouts.Split) -> list[Member]:
    members = []
    for file, class_name in zip(split.files, split.classes, strict=True):
        path = os.path.join(split.folder, file)
        members.append(Member(class_name, os.path.basename(file), path, 0, size_of(path)))
    return members


def _of_class_archives(archive: pathlib.Path) -> Iterator[Member]:
    """List the images of an archive of archives, one for each class."""
    with _reading(archive), tarfile.open(archive, "r:") as outer:
        for entry in outer:
            file = outer.extractfile(entry) if entry.name.endswith(".tar") else None
            if file is None:
                continue
            with tarfile.open(fileobj=file, mode="r:") as inner:
                class_name = pathlib.PurePosixPath(entry.name).stem
                yield from _images(archive, inner, class_name, entry.offset_data)


def _of_test_archive(source: pathlib.Path, names: Sequence[str]) -> Iterator[Member]:
    """List the images of the archive of test images, whose classes are in another file."""
    archive = source / TEST_ARCHIVE
    if not archive.is_file():
        raise UserError(f"no {TEST_ARCHIVE} in {source}: it belongs beside {TRAIN_ARCHIVE}")
    classes = _test_classes(source, names)
    with _reading(archive), tarfile.open(archive, "r:") as tar:
        for member in _images(archive, tar, "", 0):
            if member.name not in classes:
                raise UserError(f"no class of {member.name} of {archive} in {source}")
            yield dataclasses.replace(member, class_name=classes[member.name])


def _images(
    archive: pathlib.Path, tar: tarfile.TarFile, class_name: str, start: int
) -> Iterator[Member]:
    """List the images of an archive that starts somewhere in a file."""
    for entry in tar:
        path = pathlib.PurePosixPath(entry.name)
        if entry.isfile() and not path.name.startswith("."):
            place = start + entry.offset_data
            yield Member(class_name, path.name, str(archive), place, entry.size)


def _test_classes(source: pathlib.Path, names: Sequence[str]) -> dict[str, str]:
    """Read the class of every test image, by file name."""
    if (source / TEST_LIST).is_file():
        return _listed_classes(source / TEST_LIST, names)
    if (source / DEVKIT).is_file():
        return _devkit_classes(source / DEVKIT)
    raise UserError(
        f"no classes of the test images in {source}: put {DEVKIT} there, or {TEST_LIST} with lines "
        "`FILE CLASS`"
    )


def _listed_classes(file: pathlib.Path, names: Sequence[str]) -> dict[str, str]:
    classes = {}
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {file}: {error}") from error
    for number, line in enumerate(lines, 1):
        match line.split():
            case []:
                continue
            case [name, word] if word in names:
                classes[pathlib.PurePosixPath(name).name] = word
            case [name, word] if word.isdecimal() and int(word) < len(names):
                classes[pathlib.PurePosixPath(name).name] = names[int(word)]
            case _:
                raise UserError(
                    f"{file}, line {number}: {line!r} is not `FILE CLASS`, with one of the "
                    f"{len(names)} classes or its number from 0"
                )
    return classes


def _devkit_classes(archive: pathlib.Path) -> dict[str, str]:
    """Read the ground truth of the test images from the official development kit."""
    contents = {}
    with _reading(archive), tarfile.open(archive, "r:gz") as tar:
        for entry in tar:
            name = pathlib.PurePosixPath(entry.name).name
            file = tar.extractfile(entry) if entry.isfile() else None
            if file and name in ("meta.mat", "ILSVRC2012_validation_ground_truth.txt"):
                contents[name] = file.read()
    try:
        synsets = loadmat(io.BytesIO(contents["meta.mat"]), squeeze_me=True)["synsets"]
        names = {int(one["ILSVRC2012_ID"]): str(one["WNID"]) for one in synsets}
        numbers = contents["ILSVRC2012_validation_ground_truth.txt"].split()
        return {
            f"ILSVRC2012_val_{i:08}.JPEG": names[int(number)] for i, number in enumerate(numbers, 1)
        }
    except (LookupError, MatReadError, TypeError, ValueError) as error:
        raise UserError(f"{archive} is damaged or not {DEVKIT}: {error!r}") from error


@contextlib.contextmanager
def _reading(archive: pathlib.Path) -> Iterator[None]:
    """Turn the errors of reading an archive into a `UserError`; refuse one that is cut off."""
    try:
        if archive.suffix == ".tar":
            # an uncompressed archive ends with two blocks of zeros, which tarfile does not ask for
            with open(archive, "rb") as f:
                f.seek(max(0, os.path.getsize(archive) - 1024))
                if f.read() != bytes(1024):
                    raise EOFError("it is cut off, or is no tar archive")
        yield
    except (EOFError, OSError, tarfile.TarError, zlib.error) as error:
        raise UserError(f"{archive} is damaged: {error}; get it again") from error
