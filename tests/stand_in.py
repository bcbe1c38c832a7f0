"""Stands in for `python -m bsce_jax.train` in the tests of launch/: the Python of their .venv.

The config says what it does: `finish`, `fail` (process 1 fails, process 0 can be
stopped, the others never end), or `wait` (for a signal; it finishes when it is started again).
"""

import os
import pathlib
import signal
import sys
import time

if sys.argv[1] == "-c":
    exec(sys.argv[2])
    sys.exit()

args = sys.argv[1:]


def value(flag: str, default: str) -> str:
    return args[args.index(flag) + 1] if flag in args else default


folder = pathlib.Path(value("--workdir", "."))
process = value("--process", os.environ.get("SLURM_PROCID", os.environ.get("WORKER", "0")))
count = int(value("--processes", os.environ.get("SLURM_NTASKS", os.environ.get("WORKERS", "1"))))
config = value("--config", "finish")


def stop(number: int, frame: object) -> None:
    if config == "wait":
        (folder / f"{process}.stopped").write_text(signal.Signals(number).name)
    if config == "wait" or process == "0":
        sys.exit(128 + number)


signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
resumed = (folder / f"{process}.stopped").exists()
(folder / f"{process}.started").write_text("\n".join([str(os.getpid()), *args]))
while len(list(folder.glob("*.started"))) < count:
    time.sleep(0.02)
if config == "fail" and process == "1":
    sys.exit(7)
while config == "fail" or (config == "wait" and not resumed):
    time.sleep(0.02)
(folder / f"{process}.done").touch()
