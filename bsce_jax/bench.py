"""Measure how fast this machine trains: a JSON document on stdout, progress on stderr.

Examples:
  python -m bsce_jax.bench
      everything, for the config cifar100
  python -m bsce_jax.bench --parts steps --methods il_baseline podnet
  python -m bsce_jax.bench --config cifar100:loss=balanced_softmax \\
      --config.runtime.dtype=bfloat16 --config.train.batch_size=256

Parts:
  steps    ms a step and images/s of each method, for each stage of the first and of a later task;
           also as fractions of the measured copy bandwidth and matrix rate of the device
  devices  the step of the first method split over 1, 2 and 4 devices (on a CPU, the devices share
           its cores)
  run      a whole run of 2 epochs a task, its time by kind of work
  tasks    the same images in 5, 10, 20 and 50 tasks of one epoch: the time of a task apart from its
           steps

Images are random: no data set is needed. Exit codes: 0 done; 2 bad input; 130 or 143 stopped by
Ctrl-C or SIGTERM, after printing what was measured so far.
"""

import contextlib
import json
import math
import runpy
import signal
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

from bsce_jax.cli import Parser
from bsce_jax.errors import Stopped, UserError, exit_on_user_error, unknown
from bsce_jax.loading import make_config, shipped

if TYPE_CHECKING:
    from ml_collections import ConfigDict

PARTS = ("devices", "steps", "run", "tasks")
COMPARED = ("finetune", "il_baseline", "icarl", "lucir", "podnet")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
      argv: its arguments; None means those of the process.
    """
    parser = Parser(takes_config=True, prog="python -m bsce_jax.bench", description=__doc__)
    parser.set_defaults(config="cifar100")
    parser.add_argument("--methods", nargs="+", default=COMPARED, metavar="METHOD")
    parser.add_argument("--parts", nargs="+", default=PARTS, metavar="PART")
    parser.add_argument(
        "--seconds", type=float, default=5, help="to measure the device or a step for"
    )
    args = parser.read(argv)
    for part in args.parts:
        if part not in PARTS:
            raise unknown("part", part, PARTS)
    if not 0 <= args.seconds < math.inf:
        raise UserError(f"--seconds is {args.seconds}: it must be a number, at least 0")
    file, _, values = args.config.partition(":")
    if "method=" in values or "method.name" in args.overrides:
        raise UserError("the config names a method: say --methods instead")

    def config(method: str, more: Mapping[str, str] | None = None) -> "ConfigDict":
        chosen = ",".join(filter(None, [f"method={method}", values]))
        return make_config(f"{file}:{chosen}", {**args.overrides, **(more or {})})

    for method in args.methods:
        config(method)  # find mistakes before the first measurement
    overrides = [f"--config.{path}={text}" for path, text in args.overrides.items()]
    report: dict[str, Any] = {"schema": 2, "config": args.config, "overrides": overrides}
    report["imports"] = args.imports
    measure = runpy.run_path(str(shipped("benchmarks") / "throughput.py"))["measure"]
    stopped = None
    with _raising_stops():
        try:
            measure(report, config, args.methods, args.parts, args.seconds)
        except Stopped as error:
            stopped = error
    print(json.dumps(report, indent=1))
    if stopped is not None:
        raise stopped


@contextlib.contextmanager
def _raising_stops() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into `Stopped`."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    before = {kind: signal.signal(kind, stop) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


if __name__ == "__main__":
    exit_on_user_error(main)
