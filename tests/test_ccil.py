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


def test_the_random_exemplars_of_new_classes_are_those_that_are_kept(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    works: list[Work] = []

    def noted(*args: Any) -> Work:
        works.append(choose_records(*args))
        return works[-1]

    monkeypatch.setattr(tasks, "choose_records", noted)
    fields = {"memory.selection": "random", "train.replay_batch_size": 8, "train.epochs": 1}
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
    assert set(counts) == {made.memory.size}
    assert sorted(second.records) == sorted(np.flatnonzero(problem.labels >= 5))
    other = Problem(make_config("ccil", fields={**fields, "seed": 1}), DATA)
    assert set(other.random_exemplars(1)) != set(problem.random_exemplars(1))
