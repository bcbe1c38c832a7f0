"""A small part of `python -m tests.faults`: 5 kills, every kind of damage, some starvation."""

import os
import pathlib

import numpy as np
import pytest
from faults import cases, damage, kill, starve

from bsce_jax.training.problem import Problem

CASE = "image files"
FOREVER = float("inf")


def test_killed_runs_end_as_undisturbed_ones(tmp_path: pathlib.Path) -> None:
    done, failures = kill.try_kills([CASE], tmp_path, np.random.default_rng(9), 5, FOREVER)
    assert not failures
    assert done["kills"] >= 5
    assert done["at a file operation"]
    assert done["at a random time"]
    assert done["in a row"]


def test_every_kind_of_damage_is_noticed_or_harmless(tmp_path: pathlib.Path) -> None:
    case = cases.CASES[CASE]
    straight, states = damage.states(tmp_path, case)
    rng = np.random.default_rng(0)
    state = states[0]
    tried = list(damage.every_damage(state))
    rng.shuffle(tried)
    chosen = {(damage.kind(file), how): (state, file, how) for file, how in tried}
    # each kind of file in one way, each way on a checkpoint
    files = {file: one for (file, _), one in chosen.items()}
    ways = {how: one for (file, how), one in chosen.items() if file == "checkpoint"}
    some = [*files.values(), *ways.values()]
    done, failures = damage.try_damages(case, straight, some)
    assert not failures
    assert done.total() == len(some) >= len(damage.DAMAGES) + 8


@pytest.mark.slow
def test_a_starved_run_ends_in_one_line_and_goes_on(tmp_path: pathlib.Path) -> None:
    straight = kill.undisturbed(CASE, tmp_path).folder
    kinds = [kind for kind in starve.KINDS if kind != "space" or not os.geteuid()]
    rng = np.random.default_rng(0)
    done, failures = starve.try_starving(CASE, straight, tmp_path, kinds, rng, 4, FOREVER)
    assert not failures
    assert done.total() == 4


def test_the_comparison_sees_a_difference(tmp_path: pathlib.Path) -> None:
    case = cases.CASES[CASE]
    cases.train(case, tmp_path / "one")
    cases.train(case._replace(fields={**case.fields, "seed": 1}), tmp_path / "other")
    found = cases.differences(tmp_path / "one", tmp_path / "other")
    assert {"metrics.jsonl", "results.json", "model/task_02.npz"} <= set(found)
    assert not cases.differences(tmp_path / "one", tmp_path / "one")


@pytest.mark.parametrize("name", cases.CASES)
def test_every_case_is_a_run(name: str, tmp_path: pathlib.Path) -> None:
    case = cases.CASES[name]
    Problem(cases.config(case), cases.data(case, tmp_path / "images"))
