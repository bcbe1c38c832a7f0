"""Whole runs that are to be the same on any number of devices; as a script, on two."""

import json
import pathlib
import sys
from typing import Any

import jax
import numpy as np
import pytest
from tiny_run import make_config, some_digits

from bsce_jax.data.plan import epoch_plan
from bsce_jax.training import fit
from bsce_jax.training.loop import run

METHODS: dict[str, dict[str, Any]] = {
    "podnet": {"method.similarity": "cosine", "method.finetune_epochs": 0},
    "ss_il": {"train.replay_batch_size": 8},
}


def whole_run(method: str, folder: pathlib.Path) -> dict[str, Any]:
    """Run a method; return the plans that it followed, its exemplars and its log."""
    plans: list[list[Any]] = []

    def noted(*args: Any, **named: Any) -> Any:
        plan = epoch_plan(*args, **named)
        plans.append([named["task"], named["epoch"], plan.indices.tolist()])
        return plan

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "epoch_plan", noted)
        results = run(make_config(method, None, METHODS[method]), folder, some_digits(12, 2))
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    with np.load(folder / "model" / "task_01.npz") as arrays:
        weight = arrays["params/head/weight"].tolist()
    return {
        "plans": plans,
        "exemplars": results["memory"]["indices"],
        "log": [line for line in log if line["kind"] == "epoch"],
        "weight": weight,
    }


if __name__ == "__main__":
    assert jax.device_count() == 2
    folder = pathlib.Path(sys.argv[1])
    found = {method: whole_run(method, folder / method) for method in METHODS}
    (folder / "found.json").write_text(json.dumps(found))
