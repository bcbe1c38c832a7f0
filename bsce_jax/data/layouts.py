"""The layouts of folders of labelled images, and what a folder has of them.

    CLASS/*.jpg                 no split: `python -m bsce_jax.prepare image_folder` makes one
    train/CLASS/*.jpg           with val/, validation/, valid/ or test/
    val/CLASS/*.jpg
    val/val_annotations.txt     of lines `FILE CLASS ...`, with the files in val/images/ or val/, as
                                Tiny-ImageNet has them
    train.txt, val.txt          of lines `FILE CLASS`. A class is a name, or a number; classes.txt
                                may have the names of the numbers, one a line, from 0

The images of a class may be in folders below its own, such as CLASS/images/. A folder that holds
all else, as archives have one, is looked into. Names that start with a dot are ignored. Images are
known by their endings and are not read.
"""

import dataclasses
import itertools
import os
import pathlib
import posixpath
from collections.abc import Sequence

from bsce_jax.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
TRAIN = "train"
TESTS = ("val", "validation", "valid", "test")  # the first one with labels is taken
OTHER_NAMES = {TRAIN, "training", *TESTS, "testing"}  # also in capitals
ANNOTATIONS = "val_annotations.txt"
CLASSES = "classes.txt"
LAYOUT = "train/CLASS/*.jpg and val/CLASS/*.jpg (test/ will do for val/, .png and others for .jpg)"


@dataclasses.dataclass(frozen=True)
class Split:
    """The image files of a split.

    Attributes:
      form: how they are labelled, such as "train/CLASS/".
      folder: that the files are in.
      class_names: of its classes, in order.
      files: paths below the folder, sorted by class and then by path.
      classes: the name of each file's class.
    """

    form: str
    folder: pathlib.Path
    class_names: list[str]
    files: list[str]
    classes: list[str]


@dataclasses.dataclass(frozen=True)
class Found:
    """What a folder has.

    Attributes:
      train: the training images, or all images if there is no split.
      test: the test images, None if there is no split.
      empty: folders without images among those of the classes, if there is no split.
    """

    train: Split
    test: Split | None
    empty: Sequence[str] = ()


def find(source: pathlib.Path) -> Found:
    """Look for labelled images in a folder.

    Args:
      source: the folder.

    Returns:
      The splits, with the same classes.

    Raises:
      UserError: it has another layout, a split lacks a class, or a list is wrong.
    """
    train = _split(source, TRAIN)
    if train is None:
        return _without_split(source)
    for name in TESTS:
        test = _split(source, name)
        # competitions have test images without labels
        if test is None or not set(train.class_names) & set(test.class_names):
            continue
        if different := sorted(set(train.class_names) ^ set(test.class_names)):
            here, there = (train, test) if different[0] in train.class_names else (test, train)
            raise UserError(
                f"class {different[0]} is in {_place(here)} and not in {_place(there)}: both need "
                "the same classes"
            )
        if train.folder == test.folder and (twice := set(train.files) & set(test.files)):
            raise UserError(f"{min(twice)} is in both {train.form} and {test.form} of {source}")
        _refuse_empty(test)
        return Found(_refuse_empty(train), test)
    for name in _misnamed(source):
        test = _split(source, name)
        if test is not None and set(train.class_names) & set(test.class_names):
            raise UserError(f"rename {source / name}: {source} should hold {LAYOUT}")
    return Found(_refuse_empty(train), None)


def files_below(folder: pathlib.Path) -> list[str]:
    """List the files in a folder and its folders, sorted, without hidden ones.

    Links to folders are not followed.

    Raises:
      UserError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from error

    found = []
    for here, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = os.path.relpath(here, folder)
        prefix = "" if inside == "." else inside + "/"
        found += [prefix + name for name in names if not name.startswith(".")]
    return sorted(found)


def links_below(folder: pathlib.Path) -> list[str]:
    """List the links to folders in a folder and its folders, sorted, without hidden ones."""
    found = []
    for here, folders, _ in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        places = (pathlib.Path(here, name) for name in folders)
        found += [os.path.relpath(place, folder) for place in places if place.is_symlink()]
    return sorted(found)


def is_image(name: str) -> bool:
    """Tell whether a file is an image by its ending."""
    return name.lower().endswith(SUFFIXES)


def _without_split(source: pathlib.Path) -> Found:
    """Find the folders of the classes; look into a single folder."""
    folders = _folders(source)
    for name in TESTS:
        if name in folders and _split(source, name) is not None:
            raise UserError(f"no folder {source / TRAIN}: {source} should hold {LAYOUT}")
    if folders and set(folders) <= {TRAIN, *TESTS}:
        raise UserError(f"no classes in {source / folders[0]}: {source} should hold {LAYOUT}")
    if folders and all(name.lower() in OTHER_NAMES for name in folders) and _misnamed(source):
        raise UserError(f"{source} has {' and '.join(folders)}: it should hold {LAYOUT}")
    split = _of_folders(source, folders, "a folder for each class")
    names = sorted(set(split.classes))
    if len(names) == 1 and len(_folders(source / names[0])) > 1:
        return find(source / names[0])
    if len(names) < 2:
        there = f"images of one class, {names[0]}" if names else "no images in folders of classes"
        raise UserError(
            f"{source} has {there}: it should hold a folder for each class, {LAYOUT}, or train.txt "
            "with lines `FILE CLASS`"
        )
    empty = [name for name in folders if name not in names]
    return Found(dataclasses.replace(split, class_names=names), None, empty)


def _misnamed(source: pathlib.Path) -> list[str]:
    """List the folders that seem to be splits and have other names, such as Test or training."""
    names = {name for name in _folders(source) if name.lower() in OTHER_NAMES}
    return sorted(names - {TRAIN, *TESTS})


def _split(source: pathlib.Path, name: str) -> Split | None:
    """Find the images of a split; None if there is no such split, or it has no labels."""
    folder = source / name
    if (folder / ANNOTATIONS).is_file():
        form = f"{name}/{ANNOTATIONS}"
        return _listed(folder / ANNOTATIONS, form, (folder / "images", folder), [])
    if os.path.isdir(folder) and (names := _folders(folder)):
        return _of_folders(folder, names, f"{name}/CLASS/")
    if (source / f"{name}.txt").is_file():
        places = (source, folder, source / "images")
        known = _lines(source / CLASSES) if (source / CLASSES).is_file() else []
        class_names = [line.strip() for line in known if line.strip()]
        return _listed(source / f"{name}.txt", f"{name}.txt", places, class_names)
    return None


def _of_folders(folder: pathlib.Path, names: list[str], form: str) -> Split:
    files = [
        [f"{name}/{file}" for file in files_below(folder / name) if is_image(file)]
        for name in names
    ]
    classes = [[name] * len(of_class) for name, of_class in zip(names, files, strict=True)]
    chain = itertools.chain.from_iterable
    return Split(form, folder, names, list(chain(files)), list(chain(classes)))


def _listed(
    file: pathlib.Path, form: str, places: Sequence[pathlib.Path], class_names: Sequence[str]
) -> Split:
    """Read a list of files and their classes.

    Args:
      file: the list. In annotations, what follows the class is a box.
      form: of the split.
      places: folders that the files may be in; the first that has the first file is taken.
      class_names: of the classes that are numbers.

    Raises:
      UserError: a line that is not `FILE CLASS`, a file that is listed twice, or the first file is
        in none of the places.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(_lines(file), 1):
        if not line.strip():
            continue
        words = line.split("\t")[:2] if file.name == ANNOTATIONS else line.rsplit(maxsplit=1)
        if len(words) < 2:
            raise UserError(f"{file}, line {number}: {line!r} is not `FILE CLASS`")
        name, label = posixpath.normpath(words[0].strip()), words[1].strip()
        if label.isdecimal() and class_names:
            if int(label) >= len(class_names):
                raise UserError(
                    f"{file}, line {number}: class {label} is not one of the {len(class_names)} "
                    f"of {CLASSES}, from 0"
                )
            label = class_names[int(label)]
        if name in found:
            raise UserError(f"{file}, line {number}: {name} is listed twice")
        found[name] = label
    if not found:
        raise UserError(f"{file} lists no images")
    first = next(iter(found))
    folder = next((place for place in places if os.path.lexists(place / first)), None)
    if folder is None:
        raise UserError(f"{file} lists {first}, which is not in {places[0]}")
    names = sorted(set(found.values()))
    if class_names:
        names = [name for name in dict.fromkeys(class_names) if name in names]
    elif all(name.isdecimal() for name in names):
        names.sort(key=int)
    position = {name: i for i, name in enumerate(names)}
    files = sorted(found, key=lambda name: (position[found[name]], name))
    return Split(form, folder, names, files, [found[name] for name in files])


def _lines(file: pathlib.Path) -> list[str]:
    try:
        return os.fsdecode(file.read_bytes()).splitlines()  # they have the names of files
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error


def _folders(folder: pathlib.Path) -> list[str]:
    """List the names of the folders in a folder, sorted, without hidden ones."""
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir())
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror}") from error


def _refuse_empty(split: Split) -> Split:
    if empty := sorted(set(split.class_names) - set(split.classes)):
        raise UserError(f"no images in {split.folder / empty[0]}: no {', '.join(SUFFIXES)}")
    return split


def _place(split: Split) -> pathlib.Path | str:
    return split.folder if split.form.endswith("/") else split.form
