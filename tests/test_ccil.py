"""CCIL: which exemplars its batches have. Its terms are in `test_methods.py`."""

import pathlib
from typing import Any

import numpy as np
import pytest
from tiny_run import make_config, some_digits

from bsce_jax.training import tasks
from bsce_jax.training.fit import Work, choose_records
from bsce_jax.training.loop import run
from bsce_jax.training.problem import Problem

DATA = some_digits(12, 4)


@pytest.mark.parametrize(
    ("policy", "size", "each"),
    [("per_class", 3, 3), ("total", 70, 7)],  # with 70, each old class had all its 12 images
)
def test_the_random_exemplars_of_new_classes_are_those_that_are_kept(
    policy: str, size: int, each: int, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    works: list[Work] = []

    def noted(*args: Any) -> Work:
        works.append(choose_records(*args))
        return works[-1]

    monkeypatch.setattr(tasks, "choose_records", noted)
    fields: dict[str, Any] = {
        "memory.selection": "random",
        "train.replay_batch_size": 8,
        "train.epochs": 1,
    }
    fields |= {"memory.policy": policy, "memory.size": size}
    made = make_config("ccil", fields=fields)
    kept = run(made, tmp_path, DATA)["memory"]["indices"]
    first, second = works
    assert first.replay is None
    assert second.replay is not None
    new = {c: set(records) for c, records in enumerate(kept[1])}
    assert set(second.replay) == set().union(*new.values())
    # as many of each class, and new images but once in an epoch
    problem = Problem(made, DATA)
    counts = np.bincount(problem.labels[second.replay])
    assert set(counts) == {each}
    assert sorted(second.records) == sorted(np.flatnonzero(problem.labels >= 5))
    other = Problem(make_config("ccil", fields={**fields, "seed": 1}), DATA)
    chosen = [np.concatenate(p.random_exemplars(1)) for p in (problem, other)]
    assert set(chosen[0]) != set(chosen[1])
