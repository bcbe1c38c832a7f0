"""Write the tables of docs/results.md, the study's results beside published ones, and README's.

    .venv/bin/python benchmarks/tables.py

Published figures come from bsce_jax/report/published.csv. They are in the row of a run only if data
set, tasks, memory, backbone and augmentation are the same. README has what the balanced loss gains
at full size.
"""

from collections import defaultdict
from typing import Any

import common
from study import BRIGHTNESS, METHODS, PROTOCOLS, RECIPES, Protocol, Run, all_runs

from bsce_jax.cli import Parser
from bsce_jax.errors import exit_on_user_error
from bsce_jax.report import published as figures

PAGE, README = common.ROOT / "docs" / "results.md", common.ROOT / "README.md"
# the runs that README and the picture show
SHOWN = (PROTOCOLS[0], "short")
# names of methods in the table of published figures -> ours
PUBLISHED = {"ss-il": "ss_il", "ce": "replay", "ce+kd": "il_baseline", "ds-al": "ds_al"}
# recipe -> what a title says of it
TITLES = {"published": "", "short": ", short", "reduced": ", reduced"}


def published(protocol: Protocol) -> dict[str, list[str]]:
    """List the published figures of a protocol, by method: `average / last (source)`."""
    base = protocol.base or protocol.increment
    sizes = [base] + [protocol.increment] * ((100 - base) // protocol.increment)
    memory = figures.memory_of(protocol.policy, protocol.size)
    rows = figures.find("cifar100", sizes, memory, "resnet32")
    rows += figures.find("cifar100", sizes, "none", "resnet32 frozen + ridge 8192")
    found = defaultdict(list)
    for row in rows:
        method = PUBLISHED.get(row.method, row.method)
        augmentation = BRIGHTNESS if method in ("podnet", "afc") else "crop+flip"
        if row.augmentation == (protocol.augmentation or augmentation):
            both = " / ".join("-" if x is None else f"{x:.2f}" for x in (row.average, row.last))
            found[method].append(f"{both} ({row.prediction.upper()}, {row.source})")
    return found


def table(protocol: Protocol, recipe: str) -> str | None:
    """Make the table of a protocol; None if no run of it is finished."""
    reduced = recipe == "reduced"
    lines = [
        "| method | loss | seeds | average incremental | last | forgetting | NME average |"
        + ("" if reduced else " published with its own loss: average / last |"),
        "|---" * (7 if reduced else 8) + "|",
    ]
    beside = published(protocol)
    of_protocol = [run for run in all_runs(recipe) if run.protocol == protocol]
    rows: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in sorted(of_protocol, key=lambda run: METHODS.index(run.method)):
        if run.path.exists():
            rows[run.method, run.loss].append(run)
    for (method, loss), done in rows.items():
        found = common.read([run.path for run in done])
        cells = [
            figure(found, "cnn", name) for name in ("average_incremental", "last", "forgetting")
        ]
        cells.append(figure(found, "nme", "average_incremental"))
        if not reduced:
            cells.append("" if loss == "balanced_softmax" else "; ".join(beside[method]))
        lines.append(f"| `{method}` | `{loss}` | {len(found)} | {' | '.join(cells)} |")
    return "\n".join(lines) if rows else None


def pairs(protocol: Protocol, recipe: str) -> dict[str, list[list[dict[str, Any]]]]:
    """Read the finished runs of each method that has some with the balanced loss and without it.

    Returns:
      method -> the runs with its published loss, those with the balanced one.
    """
    found: dict[str, list[list[dict[str, Any]]]] = {}
    for method in METHODS:
        runs = [run for run in all_runs(recipe) if (run.protocol, run.method) == (protocol, method)]
        of_losses = [
            common.read([run.path for run in runs if run.loss == loss])
            for loss in common.losses(method)
        ]
        if len(of_losses) == 2 and all(of_losses):
            found[method] = of_losses
    return found


def gains(protocol: Protocol, recipe: str) -> str:
    """Make the table of each method with its published loss and with the balanced one."""
    names = ("average_incremental", "last", "forgetting")
    lines = [f"| method | published loss | {' | '.join(n.replace('_', ' ') for n in names)} |"]
    lines.append("|---" * 5 + "|")
    for method, both in pairs(protocol, recipe).items():
        cells = [" → ".join(figure(found, "cnn", name) for found in both) for name in names]
        lines.append(f"| `{method}` | `{common.losses(method)[0]}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def figure(found: list[dict[str, Any]], kind: str, name: str) -> str:
    values = [one[kind] and one[kind][name] for one in found]
    return "-" if None in values else common.mean_and_deviation(values, digits=2)


def main() -> None:
    Parser(description=__doc__).read()
    parts = []
    for recipe in RECIPES:
        for protocol in PROTOCOLS:
            made = table(protocol, recipe)
            if made is None:
                continue
            start = f"Base {protocol.base}" if protocol.base else "No base"
            shared = "a class" if protocol.policy == "per_class" else "in total"
            title = f"## {start}, increments of {protocol.increment}, "
            title += f"{protocol.size} exemplars {shared}"
            parts += [title + TITLES[recipe], made]
    common.fill(PAGE, "tables", "\n\n".join(parts))
    common.fill(README, "gains", gains(*SHOWN))


if __name__ == "__main__":
    exit_on_user_error(main)
