"""Train a class-incremental run from a config.

Examples:
  python -m bsce_jax.train --config digits --workdir runs/digits
      run the same command again to resume
  python -m bsce_jax.train --config cifar100:method=lucir,base=50,increment=10 \\
      --workdir runs/lucir --config.train.epochs=80 --config.seed=1
  python -m bsce_jax.train --config digits --workdir runs/seeds --seeds 0,1,2
      train in runs/seeds/seed_0 and so on, and write runs/seeds/summary.json
  python -m bsce_jax.train --config cifar100 --help
      list every field of a config with its value and its meaning
  python -m bsce_jax.train --extend runs/photos --workdir runs/photos2 \\
      --config.dataset.data_dir=data/photos
      learn the classes that a finished run has not learned: it becomes the
      start of another run, with its config, model and exemplars. Of the photos
      that it was trained on, one of each class has to be there

With --seeds, seed N also shuffles the classes: scenario.class_order is N. An
order that --config.scenario.class_order sets, or that the config lists, is the
same for all seeds. Finished seeds are not trained again. The summary is of all
seeds that are finished in the folder.

A run of several processes has the same command on each host. In a SLURM job
and on a TPU slice they find each other; elsewhere --coordinator, --processes
and --process connect them. All use the same --workdir. The first one writes
the files and prints.

DIR and RUN may be gs://BUCKET/RUN, with pip install 'bsce_jax[gcs]'.

Exit codes: 0 done; 2 bad input; 3 no space left; 4 the bucket cannot be reached;
130, 143 or 129 stopped by Ctrl-C, SIGTERM or SIGHUP, after saving a checkpoint.
"""

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bsce_jax.cli import Parser
from bsce_jax.errors import Stopped, UserError, exit_on_user_error, is_no_space
from bsce_jax.loading import make_config

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def parse(argv: Sequence[str]) -> "tuple[ConfigDict, str]":
    """Read the command line (without the program's name) into a config and a work directory.

    Raises:
      UserError: an unknown flag or field, or an invalid value.
    """
    return _configured(_read(argv))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
      argv: its arguments; None means those of the process.
    """
    args = _read(argv)
    if args.help_methods:
        from bsce_jax.report.catalogue import text

        print(text())
        return
    config, folder = _configured(args)

    from bsce_jax import hosts
    from bsce_jax.report.terminal import print_results, print_summary
    from bsce_jax.training import compiler
    from bsce_jax.training.loop import run
    from bsce_jax.training.seeds import refuse_seeds, run_seeds

    hosts.initialize(args.coordinator, args.processes, args.process)
    compiler.keep_programs()
    _leave_errors_of_threads_to_the_run()
    with hosts.ending_together():
        try:
            if args.seeds is None:
                refuse_seeds(folder)
                found, show = run(config, folder), print_results
            else:
                own_orders = "scenario.class_order" not in args.overrides
                found = run_seeds(config, folder, args.seeds, own_orders=own_orders)
                show = print_summary
        except Stopped as stopped:
            if hosts.is_main():
                print(f"stopped; the same command goes on from {folder}", file=sys.stderr)
            sys.exit(128 + stopped.signal)
    if hosts.is_main():
        show(found)


def _leave_errors_of_threads_to_the_run() -> None:
    """Print no traceback for an error in a library's thread that the run raises itself.

    When a disk is full, TensorBoard's thread, orbax's threads and tensorstore's threads each report
    it, and orbax raises it in the main thread at its next call.
    """

    def report_thread(args: threading.ExceptHookArgs) -> None:
        if not is_no_space(args.exc_value):
            threading.__excepthook__(args)

    def report_unraisable(args: "sys.UnraisableHookArgs") -> None:
        # tensorstore reports to an event loop that orbax has closed after the first error
        if "Event loop is closed" not in str(args.exc_value):
            sys.__unraisablehook__(args)

    threading.excepthook = report_thread
    sys.unraisablehook = report_unraisable
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax logs with tracebacks there


def _read(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(takes_config=True, prog="python -m bsce_jax.train", description=__doc__)
    parser.add_argument("--workdir", metavar="DIR", help="folder of the run")
    parser.add_argument(
        "--seeds", type=_seeds, metavar="N,N,...", help="train each, in DIR/seed_N, and summarise"
    )
    parser.add_argument(
        "--extend", metavar="RUN", help="a finished run to go on from; needs no --config"
    )
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0")
    parser.add_argument("--processes", type=int, metavar="N", help="how many there are")
    parser.add_argument("--process", type=int, metavar="I", help="number of this one, from 0")
    parser.add_argument(
        "--help-methods",
        action="store_true",
        help="list the methods and the losses with their fields",
    )
    return parser.read(argv)


def _configured(args: argparse.Namespace) -> "tuple[ConfigDict, str]":
    from bsce_jax.runs.bucket import Local

    given, overrides = args.config, dict(args.overrides)
    if args.extend is not None:
        if not args.extend:
            raise UserError("--extend is empty: give the folder of a finished run")
        if "scenario.extends" in overrides:
            raise UserError("--extend gives the run: leave out --config.scenario.extends")
        for field in ("scenario.base", "scenario.increment", "scenario.class_order"):
            if field in overrides:
                raise UserError(
                    f"--config.{field} is not for --extend: say --config.scenario.tasks instead"
                )
        files = Local(args.extend, lambda name: name == "config.json")
        if given is None:
            given = os.path.join(files.folder, "config.json")
            for field in ("scenario.tasks", "train.init_from", "model.init"):
                overrides.setdefault(field, "")  # those of the finished run are its own
        overrides["scenario.extends"] = args.extend
    if given is None:
        raise UserError("say --config NAME or --config FILE.py, for example --config digits")
    if args.workdir is None:
        raise UserError("say --workdir DIR: the folder of the run")
    if args.seeds is not None and "seed" in overrides:
        raise UserError("--seeds gives the seeds: leave out --config.seed")
    return make_config(given, overrides), args.workdir


def _seeds(text: str) -> list[int]:
    """Read the value of --seeds."""
    parts = [part.strip() for part in text.split(",")]
    wrong = [part for part in parts if not (part.isascii() and part.isdecimal())]
    if wrong or len({*map(int, parts)}) < len(parts):
        raise UserError(f"--seeds is {text!r}: give different numbers, such as 0,1,2")
    return [int(part) for part in parts]


if __name__ == "__main__":
    # Until there is something to save, Ctrl-C ends the process at once. As an exception it would be
    # raised inside a library that is being imported, and some of them swallow it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    exit_on_user_error(main)
