"""Compare trained runs: a page with tables and figures, or files for a paper.

Examples:
  python -m bsce_jax.report runs/digits
      report.html: one page that needs no network
  python -m bsce_jax.report runs/seeds runs/other --out digits.html
      a folder of runs, as train --seeds makes it, and one more run. Runs that differ only in their
      seeds and class orders form a group: mean and deviation
  python -m bsce_jax.report runs/* --format pdf,latex --out figures
      a folder with every figure as PDF and the tables for LaTeX

Runs may have different data sets and tasks, which then have parts of their own, and unfinished
runs are reported as far as they are. Only the folders of the runs are needed.

It needs altair and vl-convert-python: pip install 'bsce_jax[report]'.

Exit codes: 0 done; 2 bad input; 3 no space left; 4 the bucket cannot be reached;
130 stopped by Ctrl-C.
"""

import argparse
import functools
import importlib
import pathlib
import sys
from collections.abc import Sequence
from typing import IO

from bsce_jax.cli import Parser, local_path
from bsce_jax.errors import UserError, exit_on_user_error, in_one_line, unknown, using
from bsce_jax.files import write_atomically

FORMATS = ("html", "svg", "png", "pdf", "csv", "latex")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
      argv: its arguments; None means those of the process.

    Raises:
      UserError: invalid arguments, a folder without a usable run, or a package that is missing.
    """
    args = _read(argv)
    _need_packages()
    from bsce_jax.report import export, page
    from bsce_jax.report.runs import read_all, scenarios
    from bsce_jax.report.tables import count

    runs, notes = read_all(args.runs)
    for note in notes:
        print(in_one_line(note), file=sys.stderr)
    found = scenarios(runs)
    others = [form for form in args.formats if form != "html"]
    made = export.make(found, others) if others else {}
    files = {args.out / name: content for name, content in made.items()}
    if "html" in args.formats:
        place = args.out if args.formats == ["html"] else args.out / "report.html"
        files[place] = page.make(found, notes).encode("utf-8", "replace")
    with using(args.out):
        for path, content in files.items():
            write_atomically(path, functools.partial(_write, content))
    written = args.out if args.formats == ["html"] else f"{len(files)} files in {args.out}"
    print(f"{count(len(runs), 'run')}: {written}")


def _read(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(opens_runs=True, prog="python -m bsce_jax.report", description=__doc__)
    parser.add_argument(
        "runs", nargs="*", type=pathlib.Path, metavar="RUN", help="its folder, or one of runs"
    )
    parser.add_argument(
        "--format", default="html", help=f"some of {','.join(FORMATS)} (default: html)"
    )
    parser.add_argument(
        "--out",
        type=local_path,
        help="the page (default: report.html); with other formats a folder (default: report)",
    )
    args = parser.read(argv)
    if not args.runs:
        raise UserError("say which runs: python -m bsce_jax.report RUN...")
    args.formats = list(dict.fromkeys(args.format.split(",")))
    for form in args.formats:
        if form not in FORMATS:
            raise unknown("format", form, FORMATS)
    is_page = args.formats == ["html"]
    args.out = args.out or pathlib.Path("report.html" if is_page else "report")
    if is_page and args.out.is_dir():
        raise UserError(f"--out {args.out} is a folder: name a file, such as report.html in it")
    if not is_page and args.out.is_file():
        raise UserError(f"--out {args.out} is a file: name a folder")
    return args


def _write(content: bytes, file: IO[bytes]) -> None:
    file.write(content)


def _need_packages() -> None:
    for name in ("altair", "vl_convert"):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise UserError(
                f"a report needs {error.name}: pip install 'bsce_jax[report]'"
            ) from error


if __name__ == "__main__":
    exit_on_user_error(main)
