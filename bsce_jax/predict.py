"""Predict the classes of photos with a trained run; only the run's folder is needed.

Examples:
  python -m bsce_jax.predict --workdir runs/pets cat.jpg holiday/
      the five likeliest classes of a file and of the images in and below a folder
  python -m bsce_jax.predict --workdir runs/pets holiday/ --top 1 --format csv --out holiday.csv
  python -m bsce_jax.predict --workdir runs/pets --evaluate pets/val --format json
      accuracy and confusions on labelled images: a folder for each class, with the class's name

Photos are prepared as the run's test images were. A run on image files gets central crops (87.5 %
of the shorter side). A run on images of fixed size, such as digits or cifar100, gets the largest
central part of their shape, resized. Photos are grey for runs on images of one channel.

--by cnn gives probabilities: the softmax of the network's scores, as the method corrects them.
--by nme gives cosine similarities to the mean features of the classes; the run must have exemplars.

Exit codes: 0 done; 2 bad input; 3 no space left; 4 the bucket cannot be reached;
130 stopped by Ctrl-C.
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bsce_jax.cli import Parser, local_path
from bsce_jax.errors import UserError, exit_on_user_error, in_one_line, shown, unknown, using
from bsce_jax.files import write_atomically

if TYPE_CHECKING:
    from bsce_jax.report.photos import Predictions
    from bsce_jax.runs.saved import Kind, SavedRun


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
      argv: its arguments; None means those of the process.

    Raises:
      UserError: invalid arguments, no usable model, or files that cannot be read.
    """
    args = _read(argv)
    import numpy as np

    from bsce_jax.data import photos
    from bsce_jax.report.photos import FORMATS, Evaluation
    from bsce_jax.runs.saved import SavedRun
    from bsce_jax.training import compiler

    if args.format not in FORMATS:
        raise unknown("format", args.format, FORMATS)
    compiler.keep_programs()
    run = SavedRun.open(args.workdir)
    run.check(args.by)
    if args.evaluate is None:
        found = predict(run, photos.find(args.photos), args.by, args.top, args.skip_unreadable)
        text = found.text(args.format)
    else:
        folders, left_out = class_folders(run, args.evaluate)
        if left_out:
            _say(f"no classes of {shown(str(run.folder))}, left out: {', '.join(left_out)}")
        label_of = {
            file: run.class_names.index(folder.name)
            for folder in folders
            for file in photos.find([folder])
        }
        found = predict(run, list(label_of), args.by, 1, args.skip_unreadable)
        labels = np.array([label_of[file] for file in found.files])
        evaluation = Evaluation(found, labels, left_out)
        text = evaluation.text(args.format)
        if args.format != "table" or args.out is not None:
            _say(evaluation.summary())
    if args.out is None:
        print(text, end="")
    else:
        with using(args.out.parent):
            write_atomically(args.out, lambda f: f.write(text.encode()))


def predict(
    run: "SavedRun", files: Sequence[pathlib.Path], by: "Kind", top: int, skip_unreadable: bool
) -> "Predictions":
    """Predict the classes of image files, with a progress bar on stderr.

    Args:
      run: whose model predicts.
      files: at least one.
      by: `cnn` or `nme`.
      top: how many classes of each file; all classes if there are fewer.
      skip_unreadable: leave out files that cannot be read, and list them on stderr.

    Raises:
      UserError: a file cannot be read and `skip_unreadable` is false, or none can be read.
    """
    import numpy as np
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
    from scipy.special import softmax

    from bsce_jax.data import photos
    from bsce_jax.report.photos import Predictions
    from bsce_jax.runs.saved import BATCH

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    quiet = not console.is_terminal
    kept: list[pathlib.Path] = []
    unreadable: list[tuple[pathlib.Path, str]] = []
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    with Progress(*columns, console=console, transient=True, disable=quiet) as progress:
        bar = progress.add_task("", total=len(files))
        for start in range(0, len(files), BATCH):
            batch = files[start : start + BATCH]
            images, errors = photos.read(batch, run.image_shape, run.fit)
            pairs = list(zip(batch, errors, strict=True))
            kept += [file for file, error in pairs if error is None]
            unreadable += [(file, str(error)) for file, error in pairs if error is not None]
            if skip_unreadable or not unreadable:  # else only count them
                scores = run.predict(images, by)
                values = softmax(scores, axis=1) if by == "cnn" else scores
                best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
                parts.append((best, np.take_along_axis(values, best, axis=1)))
            progress.advance(bar, len(batch))
    if unreadable and not (skip_unreadable and kept):
        hint = ": --skip_unreadable leaves them out" if kept else ""
        raise UserError(
            f"{unreadable[0][1]}; {len(unreadable)} of {len(files)} files cannot be read{hint}"
        )
    if unreadable:
        _say(f"{len(unreadable)} of {len(files)} files cannot be read, left out:")
        for _, why in unreadable:
            _say(f"  {why}")
    classes, chosen = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    names = run.class_names
    return Predictions(
        shown(str(run.folder)), run.task, by, names, kept, classes, chosen, unreadable
    )


def class_folders(run: "SavedRun", folder: pathlib.Path) -> tuple[list[pathlib.Path], list[str]]:
    """Find the folders named as the classes of a run.

    Returns:
      These folders, sorted, and the names of the other folders.

    Raises:
      UserError: the folder cannot be read, or has none of them.
    """
    with using(folder):
        below = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    known = [p for p in below if p.name in run.class_names]
    if not known:
        raise UserError(
            f"no folder in {folder} has the name of a class of {run.folder}, such as "
            f"{run.class_names[0]}"
        )
    return known, [p.name for p in below if p not in known]


def _say(text: str) -> None:
    print(in_one_line(text), file=sys.stderr)


def _read(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(opens_runs=True, prog="python -m bsce_jax.predict", description=__doc__)
    parser.add_argument("photos", nargs="*", type=pathlib.Path, metavar="PHOTO_OR_FOLDER")
    parser.add_argument("--workdir", required=True, metavar="DIR", help="folder of the run")
    parser.add_argument(
        "--evaluate", type=pathlib.Path, metavar="FOLDER", help="of labelled images, FOLDER/CLASS/"
    )
    parser.add_argument("--top", type=int, default=5, metavar="K", help="classes (default: 5)")
    parser.add_argument("--by", default="cnn", help="cnn or nme (default: cnn)")
    parser.add_argument("--format", default="table", help="table, json or csv (default: table)")
    parser.add_argument("--out", type=local_path, metavar="FILE", help="instead of stdout")
    parser.add_argument(
        "--skip_unreadable", action="store_true", help="go on without files that cannot be read"
    )
    args = parser.read(argv)
    if bool(args.photos) == (args.evaluate is not None):
        raise UserError("say which photos or folders, or --evaluate FOLDER, and not both")
    if args.top < 1:
        raise UserError(f"--top is {args.top}: it must be at least 1")
    if args.out is not None and os.path.isdir(args.out):
        raise UserError(f"--out {args.out} is a folder: name a file")
    return args


if __name__ == "__main__":
    exit_on_user_error(main)
