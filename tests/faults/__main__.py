"""Put faults into runs for a while, and print how they ended.

    .venv/bin/python -m tests.faults --hours 1

It needs no data. It ends with exit code 1 if a fault was silent or ended in a traceback.
"""

import argparse
import collections
import os
import pathlib
import shutil
import sys
import tempfile
import time

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hours", type=float, default=1.0, help="of all kinds of faults together")
    parser.add_argument("--kinds", nargs="*", default=["kill", "damage", "starve"])
    parser.add_argument("--seed", type=int, default=0, help="of the choice of faults")
    parser.add_argument("--cases", nargs="*", help="names of cases, all by default")
    args = parser.parse_args()
    place = pathlib.Path(tempfile.mkdtemp(prefix="bsce_faults_"))
    failures: list[str] = []
    try:
        _put(args, place, failures)
    finally:  # Ctrl-C too
        if not failures:
            shutil.rmtree(place)
    for text in failures:
        print(f"FAILED {text}")
    if failures:
        sys.exit(f"{len(failures)} failures; folders are in {place}")


def _put(args: argparse.Namespace, place: pathlib.Path, failures: list[str]) -> None:
    """Put faults into runs in a folder; add what fails to the list as it fails."""
    # inherited by the children, which then compile each program once
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(place / "xla")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    from . import cases, damage, kill, starve  # after the environment is set: they import jax

    names = args.cases or list(cases.CASES)
    rng = np.random.default_rng(args.seed)
    share = 3600 * args.hours / len(args.kinds)
    if "kill" in args.kinds:
        kills, wrong = kill.try_kills(names, place / "kill", rng, 10**9, time.monotonic() + share)
        _show("kills", kills)
        failures += wrong
    if "damage" in args.kinds:
        end = time.monotonic() + share
        outcomes: collections.Counter[tuple[str, str, str]] = collections.Counter()
        for name in rng.permutation(names):
            if time.monotonic() > end:
                break
            case = cases.CASES[name]
            own = place / "damage" / name.replace(" ", "_")
            straight, states = damage.states(own, case)
            tried = [(s, file, how) for s in states for file, how in damage.every_damage(s)]
            order = rng.permutation(len(tried))
            found, wrong = damage.try_damages(case, straight, [tried[i] for i in order], end)
            outcomes += found
            failures += [f"{name}: {text}" for text in wrong]
            shutil.rmtree(own)
        _show("damaged files", {", ".join(key): count for key, count in outcomes.items()})
    if "starve" in args.kinds:
        name = str(rng.choice(names))
        own = place / "starve"
        straight = kill.undisturbed(name, own).folder
        kinds = [kind for kind in starve.KINDS if kind != "space" or not os.geteuid()]
        end = time.monotonic() + share
        starved, wrong = starve.try_starving(name, straight, own, kinds, rng, 10**9, end)
        _show("starved runs", starved)
        failures += wrong


def _show(title: str, counts: "dict[str, int]") -> None:
    print(f"\n{title}")
    for name, count in sorted(counts.items()):
        print(f"  {count:6}  {name}")


if __name__ == "__main__":
    main()
