"""Folders of runs that nobody trained: everything but the model, from accuracies as stated."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bsce_jax import config, metrics
from bsce_jax.files import write_json
from bsce_jax.runs import predictions

OTHER_WORK = ("wait", "compile", "prepare", "correct", "remember")


def make_run(
    folder: pathlib.Path,
    fields: Mapping[str, Any] | None = None,
    *,
    method: str = "il_baseline",
    loss: str = "balanced_softmax",
    dataset: str = "digits",
    sizes: Sequence[int] = (2, 2, 2, 2, 2),
    finished: int | None = None,
    old: float = 0.8,
    new: float = 0.9,
    images: int = 10,
    class_names: Sequence[str] | None = None,
) -> pathlib.Path:
    """Write a run.

    Args:
      folder: of the run.
      fields: of its config, by path.
      method, loss, dataset: their names.
      sizes: number of classes of each task.
      finished: number of finished tasks; None for all.
      old, new: accuracy on the classes of earlier tasks and of the task; wrong images are taken for
        the class that came last.
      images: test images of each class.
      class_names: by label.
    """
    made = config.default(method, loss)
    for path, value in (fields or {}).items():
        section, _, name = path.rpartition(".")
        (made[section] if section else made)[name] = value
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", json.loads(made.to_json()))
    if finished == 0:
        return folder
    finished = len(sizes) if finished is None else finished
    classes = sum(sizes)
    order = np.random.default_rng(made.seed).permutation(classes)
    ends = np.cumsum(sizes).tolist()
    tasks = [order[end - size : end].tolist() for end, size in zip(ends, sizes, strict=True)]
    outcomes, lines = [], []
    for task in range(finished):
        seen = order[: ends[task]]
        labels = np.repeat(seen, images)
        is_new = np.repeat(np.arange(len(seen)) >= ends[task] - sizes[task], images)
        place = np.tile(np.arange(images), len(seen))
        right = place < np.round(np.where(is_new, new, old) * images)
        top = np.full((len(labels), 5), -1)
        top[:, 0] = np.where(right, labels, seen[-1])
        predictions.write(folder, task, labels, top, top)
        outcomes.append((labels, top))
        start = 2 * task
        for epoch in (1, 2):
            entry = {"kind": "epoch", "step": start + epoch, "task": task, "stage": 0}
            entry |= {"epoch": epoch, "loss": 1 / (start + epoch), "accuracy": 50.0}
            lines.append({**entry, "scale": 1.0 + task + epoch / 10})
        logits = {"new_logit": 3.0} | ({"old_logit": 1.0 - task} if task else {})
        lines.append({"kind": "task", "step": start + 2, "task": task, **logits})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    figures = metrics.summarize(outcomes, tasks)
    kept = [[[0] * made.memory.size] * end for end in ends[:finished]]
    value = {
        "schema": 2,
        "method": method,
        "loss": loss,
        "seed": made.seed,
        "dataset": dataset,
        "class_names": list(class_names or map("class {}".format, range(classes))),
        "class_order": order.tolist(),
        "tasks": tasks,
        "training_images": [100] * classes,
        "cnn": figures,
        "nme": figures,
        "memory": {"indices": kept},
        "timing": {"seconds": {"train": 50.0, **dict.fromkeys(OTHER_WORK, 2.0)}},
    }
    write_json(folder / "results.json", value)
    return folder
