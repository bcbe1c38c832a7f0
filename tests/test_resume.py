"""A run that was stopped or killed ends bit for bit as one that was not."""

import pathlib
from typing import Any

import pytest
from ml_collections import ConfigDict
from tiny_run import (
    assert_same_run,
    make_config,
    run_with_interruption,
    some_digits,
    without_timing,
)

from bsce_jax.training.loop import run
from bsce_jax.training.problem import Problem

DATA = some_digits(12, 2)

LINEAR = {"model.name": "tiny_linear"}
CASES: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "podnet": (
        "podnet",
        None,
        {"method.finetune_epochs": 3},
    ),
    "eeil": ("eeil", "cross_entropy", {"method.finetune_epochs": 3, **LINEAR}),
    "meta": ("il_baseline", "meta_balanced_softmax", LINEAR),
}


def config_of(case: str) -> ConfigDict:
    method, loss, fields = CASES[case]
    return make_config(method, loss, {**fields, "runtime.checkpoint_epochs": 1})


@pytest.fixture(scope="module")
def straight(
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    """The uninterrupted run of a case, done once."""
    done: dict[str, tuple[pathlib.Path, dict[str, Any]]] = {}

    def of(case: str) -> tuple[pathlib.Path, dict[str, Any]]:
        if case not in done:
            folder = tmp_path_factory.mktemp(case)
            done[case] = folder, run(config_of(case), folder, DATA)
        return done[case]

    return of


@pytest.fixture(autouse=True, scope="module")
def short_chunks() -> Any:
    """Chunks that end anywhere in an epoch, so that a stop leaves a part of one undone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Problem, "chunk_steps", lambda problem, task, size=0: 3)
        yield


@pytest.mark.parametrize("kind", ["stopped", "killed"])
@pytest.mark.parametrize(
    ("case", "stage"),
    [pytest.param("podnet", 1, marks=pytest.mark.slow), ("eeil", 1), ("meta", 0)],
    ids=["podnet", "eeil", "meta"],
)
def test_interrupted_in_the_second_task(
    straight: Any, case: str, stage: int, kind: str, tmp_path: pathlib.Path
) -> None:
    folder, results = straight(case)
    place = {"task": 1, "stage": stage, "epoch": 2}
    resumed = run_with_interruption(config_of(case), DATA, tmp_path, kind, **place)
    assert without_timing(resumed) == without_timing(results)
    assert_same_run(tmp_path, folder, 1)
    for name in ("steps", "head_steps", "finetuning_saved"):
        assert resumed["timing"][name] == results["timing"][name]
