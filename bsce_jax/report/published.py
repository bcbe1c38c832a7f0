"""Published figures of class-incremental learning, each with its source, from `published.csv`."""

import csv
import dataclasses
import importlib.resources
from collections.abc import Sequence
from typing import NamedTuple

from bsce_jax.report.runs import Group, Run
from bsce_jax.report.tables import Rows, count, moments_of
from bsce_jax.runs.results import column_name

# of the data sets with published figures
CLASSES = {"cifar100": 100, "imagenet_subset": 100, "imagenet": 1000}
# 0 is the size of the data set
IMAGE_SIZES = {"cifar100": (0, 32), "imagenet_subset": (224,), "imagenet": (224,)}


@dataclasses.dataclass(frozen=True)
class Published:
    """A published figure.

    Attributes:
      method: as its source calls it.
      prediction: kind of prediction, such as `cnn` or `nme`.
      average: average incremental accuracy in %, None if the source has none.
      last: accuracy after the last task in %, likewise.
      augmentation: of the training images, `not stated` if the source does not say.
      source: paper and table, or repository.
    """

    method: str
    prediction: str
    average: float | None
    last: float | None
    augmentation: str
    source: str


class Protocol(NamedTuple):
    """The arguments of `find`."""

    dataset: str
    sizes: Sequence[int]
    memory: str
    backbone: str


def find(dataset: str, sizes: Sequence[int], memory: str, backbone: str) -> list[Published]:
    """List the published figures of a protocol, in the order of the file; none of a part of it.

    Args:
      dataset: `cifar100`, `imagenet_subset` or `imagenet`; others have none.
      sizes: number of classes of each task.
      memory: such as `20/class`, `2000 total` or `none`.
      backbone: name of the network; what follows an underscore is a variant and does not count.
    """
    base, *others = sizes
    if len(set(others)) != 1 or sum(sizes) != CLASSES.get(dataset):
        return []
    wanted = {
        "dataset": dataset.replace("_", "-"),
        "base_classes": str(0 if base == others[0] else base),
        "increment": str(others[0]),
        "memory": memory,
        "backbone": backbone.partition("_")[0],
    }
    path = importlib.resources.files("bsce_jax.report") / "published.csv"
    rows = csv.DictReader(path.read_text("utf-8").splitlines())
    return [
        Published(
            method=row["method"],
            prediction=row["prediction"],
            average=float(row["average"]) if row["average"] else None,
            last=float(row["last"]) if row["last"] else None,
            augmentation=row["augmentation"],
            source=row["source"],
        )
        for row in rows
        if all(row[key] == value for key, value in wanted.items())
    ]


def memory_of(policy: str, size: int) -> str:
    """Name a memory as `published.csv` does: `config.memory.policy` and `size`."""
    if not size:
        return "none"
    return f"{size}/class" if policy == "per_class" else f"{size} total"


def beside(groups: Sequence[Group]) -> Rows:
    """List average incremental accuracies of the groups and the published ones of their protocols.

    With several protocols each name has its memory and its backbone.

    Returns:
      No rows if nothing is published of any of the protocols.
    """
    groups = [group for group in groups if group.first.is_complete and _is_whole(group.first)]
    protocols = dict.fromkeys(_protocol(group.first) for group in groups)
    theirs = [(protocol, figure) for protocol in protocols for figure in find(*protocol)]
    if not theirs:
        return []

    def within(protocol: Protocol) -> str:
        return f", {protocol.memory}, {protocol.backbone}" if len(protocols) > 1 else ""

    rows: Rows = []
    for group in groups:
        flip = group.first.config.get("model.flip") is True
        for kind in ("cnn", "nme"):
            found = [getattr(run, kind) for run in group.runs]
            if all(found):
                averages = moments_of([figures["average_incremental"] for figures in found])
                last = moments_of([figures["last"] for figures in found])
                rows.append(
                    {
                        "name": f"{group.name} ({column_name(kind, flip)})"
                        + within(_protocol(group.first)),
                        "origin": "these runs",
                        "average": averages.get("mean"),
                        "low": averages.get("low"),
                        "high": averages.get("high"),
                        "last": last.get("mean"),
                        "augmentation": group.first.config["train.augmentation"],
                        "source": count(len(group.runs), "run"),
                    }
                )
    rows += [
        {
            "name": f"{figure.method} ({figure.prediction.upper()})" + within(protocol),
            "origin": "published",
            "average": figure.average,
            "low": None,
            "high": None,
            "last": figure.last,
            "augmentation": figure.augmentation,
            "source": figure.source,
        }
        for protocol, figure in theirs
    ]
    return rows


def _is_whole(run: Run) -> bool:
    """Tell whether the images are as large as those of the published figures."""
    return run.config.get("dataset.image_size") in IMAGE_SIZES.get(run.dataset, ())


def _protocol(run: Run) -> Protocol:
    memory = memory_of(run.config["memory.policy"], run.config["memory.size"])
    return Protocol(run.dataset, run.sizes, memory, run.config["model.name"].partition("_")[0])
