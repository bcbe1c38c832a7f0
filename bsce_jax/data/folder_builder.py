"""Preparing a folder of photos: look at it, check every file, and list the photos.

    DATA_DIR/images.json    the listing, which training reads; see `listing.py`
    DATA_DIR/report.txt     what was found, and every file that is left out, with the reason

No photo is copied. Made again after photos were added, removed or moved, a listing keeps what was
held out for testing. Photos that were checked before and have the same size are not read again.
"""

import collections
import dataclasses
import os
import pathlib
from collections.abc import Sequence

from rich.console import Console
from rich.progress import track

from bsce_jax.data import layouts, listing
from bsce_jax.data.decode import check, threads
from bsce_jax.data.image_folder import size_of
from bsce_jax.data.listing import Listing, Photo
from bsce_jax.errors import UserError, in_one_line, using
from bsce_jax.files import write_atomically

REPORT = "report.txt"
TEST_FRACTION = 0.2
CHUNK = 64  # files that are checked between two looks at Ctrl-C


@dataclasses.dataclass(frozen=True)
class Report:
    """What preparing found.

    Attributes:
      classes: their number.
      new_classes: those that an earlier listing lacks, if there is one.
      summary: lines for the screen.
      left_out: path and reason of every file below the source that is not in the listing.
    """

    classes: int
    new_classes: list[str]
    summary: list[str]
    left_out: list[tuple[str, str]]

    def text(self) -> str:
        """Write the report file."""
        lines = [*self.summary, *(f"{file}: {reason}" for file, reason in self.left_out)]
        return "".join(in_one_line(line) + "\n" for line in lines)


def prepare(
    source: pathlib.Path,
    data_dir: pathlib.Path,
    test_fraction: float | None,
    seed: int | None,
    max_unreadable: int,
) -> Report:
    """List the photos of a folder.

    Args:
      source: the folder, of a layout of `layouts.py`.
      data_dir: where the listing goes; it may be the source.
      test_fraction: of each class to hold out if the source has no test images. None: that of the
        listing that is there, else `TEST_FRACTION`.
      seed: of that choice. None: likewise, else 0.
      max_unreadable: files that may be left out since they cannot be decoded.

    Raises:
      UserError: no known layout, too many unreadable files, a class without readable images, or
        a listing of other photos or with other options.
    """
    before = listing.read(data_dir)
    found = layouts.find(source)
    if found.test is not None and test_fraction is not None:
        raise UserError(
            f"--test_fraction is {test_fraction}: {source} has its own test images, "
            f"{found.test.form}"
        )
    test_fraction, seed = _options(before, data_dir, test_fraction, seed)
    known = {photo.file: photo for photo in (*before.train, *before.test)} if before else {}
    photos, unreadable = _check_files(source, found, known)
    if known and not {photo.file for photo in photos} & known.keys():
        raise UserError(
            f"{source} has none of the photos that {data_dir / listing.FILE} lists: choose another "
            "--data_dir"
        )
    if len(unreadable) > max_unreadable:
        failed = f"{len(unreadable):,} of {len(photos) + len(unreadable):,} images cannot be read"
        _write(data_dir, Report(0, [], [f"{source}: {failed}"], unreadable))
        file, reason = unreadable[0]
        raise UserError(
            f"{failed}, such as {source / file} ({reason}); {data_dir / REPORT} names all: mend "
            f"them, or leave them out with --max_unreadable {len(unreadable)}"
        )
    made = _listing(source, data_dir, found, photos, before, test_fraction, seed)
    unused = _unused(source, photos, unreadable)
    summary, new_classes = _summary(source, found, made), []
    if before is not None:
        new_classes = [name for name in made.class_names if name not in before.class_names]
        summary.append(_changes(made, before, new_classes))
    counts = collections.Counter(reason for _, reason in unused)
    if unreadable:
        counts["cannot be read"] = len(unreadable)
    summary += [f"left out, {count:,}: {reason}" for reason, count in counts.most_common()]
    report = Report(len(made.class_names), new_classes, summary, sorted(unreadable + unused))
    _write(data_dir, report)
    with using(data_dir):
        listing.write(data_dir, made)
    return report


def _write(data_dir: pathlib.Path, report: Report) -> None:
    with using(data_dir):
        write_atomically(data_dir / REPORT, lambda f: f.write(report.text().encode()))


def _options(
    before: Listing | None, data_dir: pathlib.Path, test_fraction: float | None, seed: int | None
) -> tuple[float, int]:
    if test_fraction is not None and not 0 < test_fraction < 1:
        raise UserError(f"--test_fraction is {test_fraction}: choose above 0 and below 1")
    if seed is not None and not 0 <= seed < 2**32:
        raise UserError(f"--seed is {seed}: choose 0 to {2**32 - 1}")
    if before is None or before.test_fraction is None:
        return test_fraction or TEST_FRACTION, seed or 0
    for option, given, there in (
        ("test_fraction", test_fraction, before.test_fraction),
        ("seed", seed, before.seed),
    ):
        if given not in (None, there):
            raise UserError(
                f"--{option} is {given}, and test images of {data_dir} were held out with {there}: "
                "choose another --data_dir"
            )
    return before.test_fraction, before.seed


def _check_files(
    source: pathlib.Path, found: layouts.Found, known: dict[str, Photo]
) -> tuple[list[Photo], list[tuple[str, str]]]:
    """Check that every image file can be decoded, unless it is known with the same size.

    Returns:
      The photos, and path and reason of the files that cannot be read.
    """
    label = {name: i for i, name in enumerate(found.train.class_names)}
    work = [
        (_below(source, split, file), label[name])
        for split in (found.train, found.test)
        if split is not None
        for file, name in zip(split.files, split.classes, strict=True)
    ]

    def one(task: tuple[str, int]) -> Photo | tuple[str, str]:
        file, label = task
        path = source / file
        try:
            size = size_of(path)
            old = known.get(file)
            if old is not None and old.bytes == size:
                return old._replace(label=label)
            image = check(path.read_bytes(), path)
            return Photo(file, label, size, *image.size)
        except OSError as error:
            return file, str(error.strerror)
        except UserError as error:
            return file, str(error).removeprefix(f"cannot read {path} as an image: ")

    console = Console(stderr=True)
    results: list[Photo | tuple[str, str]] = []
    chunks = range(0, len(work), CHUNK)
    quiet = not console.is_terminal
    for start in track(
        chunks, "checking the photos", console=console, transient=True, disable=quiet
    ):
        results += threads().map(one, work[start : start + CHUNK])
    photos = [result for result in results if isinstance(result, Photo)]
    return photos, [result for result in results if not isinstance(result, Photo)]


def _listing(
    source: pathlib.Path,
    data_dir: pathlib.Path,
    found: layouts.Found,
    photos: Sequence[Photo],
    before: Listing | None,
    test_fraction: float,
    seed: int,
) -> Listing:
    """Make the listing, with the test images that the source has, or with some held out.

    Raises:
      UserError: a class without training images.
    """
    tested: set[str] = set()
    if found.test is not None:
        tested = {_below(source, found.test, file) for file in found.test.files}
    else:
        old: tuple[set[str], set[str]] = set(), set()
        if before is not None and before.test_fraction is not None:
            old = {p.file for p in before.test}, {p.file for p in before.train}
        by_class: dict[int, list[str]] = collections.defaultdict(list)
        for photo in photos:
            by_class[photo.label].append(photo.file)
        for files in by_class.values():
            tested |= listing.hold_out(files, test_fraction, seed, *old)
    names = found.train.class_names
    ordered = sorted(photos, key=lambda photo: (photo.label, photo.file))
    train = [photo for photo in ordered if photo.file not in tested]
    if lost := set(range(len(names))) - {photo.label for photo in train}:
        raise UserError(
            f"class {names[min(lost)]} has no training image that can be read: add some"
        )
    return Listing(
        source=listing.relative(source, data_dir),
        test_fraction=None if found.test else test_fraction,
        seed=seed,
        class_names=names,
        train=train,
        test=[photo for photo in ordered if photo.file in tested],
    )


def _unused(
    source: pathlib.Path, photos: Sequence[Photo], unreadable: Sequence[tuple[str, str]]
) -> list[tuple[str, str]]:
    """List what else is below the source: images of no class, other formats, linked folders."""
    used = {photo.file for photo in photos} | {file for file, _ in unreadable}
    classes = {str(parent) for file in used for parent in pathlib.PurePath(file).parents}
    found = [
        (name, "a link to a folder is not followed")
        for name in layouts.links_below(source)
        if name not in classes
    ]
    for file in layouts.files_below(source):
        ending = os.path.splitext(file)[1].lower()
        if file in used:
            continue
        if layouts.is_image(file):
            found.append((file, "image outside of the classes' folders and lists"))
        elif "/" in file and os.path.basename(file) != layouts.ANNOTATIONS:  # or beside the folders
            found.append((file, f"{ending or 'a file without ending'} is not read"))
    return found


def _summary(source: pathlib.Path, found: layouts.Found, made: Listing) -> list[str]:
    """Describe the photos: layout, numbers, balance of the classes, and sizes."""
    names = made.class_names
    counts = collections.Counter(photo.label for photo in made.train)
    ranked = sorted(counts, key=lambda label: (counts[label], label))
    few, many = ranked[0], ranked[-1]
    median = counts[ranked[len(ranked) // 2]]
    sides = sorted(min(photo.width, photo.height) for photo in (*made.train, *made.test))
    if found.test is not None:
        form = f"{found.train.form} and {found.test.form}"
    else:
        held = f"{made.test_fraction:.0%} of each class are held out"
        form = f"{found.train.form} and no test images: {held}"
    each = f"{counts[few]:,} ({names[few]}) to {counts[many]:,} ({names[many]}), median {median:,}"
    if counts[few] == counts[many]:
        each = f"{median:,}"
    empty = [f"folders without images, no classes: {', '.join(found.empty)}"] if found.empty else []
    lines = [
        f"{source} has {form}",
        f"{len(names)} classes, {len(made.train):,} training and {len(made.test):,} test images",
        f"training images a class: {each}",
        f"shorter sides: {sides[0]:,} to {sides[-1]:,} pixels, median {sides[len(sides) // 2]:,}",
        *empty,
    ]
    tests = {photo.label for photo in made.test}
    if untested := [name for label, name in enumerate(names) if label not in tests]:
        lines.append(f"classes without test images: {', '.join(untested)}")
    return lines


def _changes(made: Listing, before: Listing, new_classes: Sequence[str]) -> str:
    """Describe what was added and removed since the listing that was there."""
    then, now = ({photo.file for photo in (*one.train, *one.test)} for one in (before, made))
    new = f"; new classes: {', '.join(new_classes)}" if new_classes else ""
    return (
        f"since the last time: {len(now - then):,} images added, {len(then - now):,} removed{new}"
    )


def _below(source: pathlib.Path, split: layouts.Split, file: str) -> str:
    """Name a file of a split from the source on."""
    return os.path.relpath(os.path.join(split.folder, file), source)
