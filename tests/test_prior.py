"""The log-prior of every stage of whole runs, for each protocol, by hand."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from tiny_run import flat_images, make_config

from bsce_jax.training import loop, tasks
from bsce_jax.training.fit import Chunk, Work, task_context
from bsce_jax.training.trainer import Trainer

IMAGES = 500
UNSEEN = 0  # images of a class that is not seen: log 0 is -inf


@pytest.fixture
def priors(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs three tasks of two classes without training, and returns the priors of each task."""
    found: list[list[np.ndarray]] = [[], [], []]

    def note(
        trainer: Trainer, network: object, work: Work, *rest: Any, **more: Any
    ) -> Iterator[Chunk]:
        found[work.task].append(np.asarray(task_context(trainer.problem, work).log_prior))
        return iter(())

    def priors(
        method: str, loss: str = "balanced_softmax", fields: Mapping[str, Any] | None = None
    ) -> list[list[np.ndarray]]:
        common = {
            "model.name": "tiny_linear" if method != "podnet" else "tiny",
            "scenario.base": 2,
            "scenario.increment": 2,
            "train.batch_size": 128,
        }
        made = make_config(method, loss, {**common, **(fields or {})})
        monkeypatch.setattr(tasks, "fit", note)
        loop.run(made, tmp_path, flat_images([IMAGES] * 6))
        return found

    return priors


def logs(counts: Sequence[float]) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(np.array(counts))


def close(prior: np.ndarray, counts: Sequence[float]) -> None:
    np.testing.assert_allclose(prior, logs(counts), rtol=1e-6)


def test_a_fixed_number_of_exemplars_a_class(priors: Any) -> None:
    first, second, third = priors("replay", fields={"memory.size": 20})
    close(first[0], [IMAGES, IMAGES, UNSEEN, UNSEEN, UNSEEN, UNSEEN])
    close(second[0], [20, 20, IMAGES, IMAGES, UNSEEN, UNSEEN])
    close(third[0], [20, 20, 20, 20, IMAGES, IMAGES])
    assert [len(task) for task in (first, second, third)] == [1, 1, 1]


def test_a_budget_in_total_is_shared_by_the_old_classes(priors: Any) -> None:
    fields = {"memory.policy": "total", "memory.size": 71}
    _, second, third = priors("replay", fields=fields)
    close(second[0], [36, 35, IMAGES, IMAGES, UNSEEN, UNSEEN])
    close(third[0], [18, 18, 18, 17, IMAGES, IMAGES])


def test_tau_scales_the_prior(priors: Any) -> None:
    _, second, _ = priors("replay", fields={"memory.size": 20, "loss.tau": 0.5})
    np.testing.assert_allclose(second[0][:4], logs([20, 20, IMAGES, IMAGES]) / 2, rtol=1e-6)


def test_cross_entropy_has_no_prior(priors: Any) -> None:
    _, second, _ = priors("replay", "cross_entropy")
    close(second[0], [1, 1, 1, 1, UNSEEN, UNSEEN])


def test_exemplars_with_places_of_their_own_count_as_often_as_they_are_drawn(priors: Any) -> None:
    fields = {"memory.policy": "total", "memory.size": 41, "train.replay_batch_size": 32}
    first, second, _ = priors("ss_il", fields=fields)
    close(first[0], [IMAGES, IMAGES, UNSEEN, UNSEEN, UNSEEN, UNSEEN])
    # 1000 new images in batches of 128: 8 steps with 32 places for 41 exemplars
    drawn = 8 * 32 / 41
    close(second[0], [21 * drawn, 20 * drawn, IMAGES, IMAGES, UNSEEN, UNSEEN])


def test_what_is_held_out_does_not_count(priors: Any) -> None:
    first, second, third = priors("bic", fields={"memory.size": 20, "method.validation": 0.1})
    close(first[0], [IMAGES, IMAGES, UNSEEN, UNSEEN, UNSEEN, UNSEEN])
    close(second[0], [18, 18, 498, 498, UNSEEN, UNSEEN])
    close(third[0], [18, 18, 18, 18, 498, 498])


def test_without_memory_old_classes_have_no_image(priors: Any) -> None:
    _, second, _ = priors("lwf")
    close(second[0], [0, 0, IMAGES, IMAGES, UNSEEN, UNSEEN])


def test_without_memory_the_relaxed_prior_is_a_share_of_the_new_counts(priors: Any) -> None:
    _, second, _ = priors("lwf", fields={"loss.old_prior": 0.1})
    close(second[0], [50, 50, IMAGES, IMAGES, UNSEEN, UNSEEN])


def test_the_balanced_finetuning_has_exemplars_of_all_classes(priors: Any) -> None:
    fields = {"memory.size": 20, "train.finetuning": "always"}
    first, second, third = priors("eeil", fields=fields)
    assert len(first) == 1
    close(second[0], [20, 20, IMAGES, IMAGES, UNSEEN, UNSEEN])
    close(second[1], [20, 20, 20, 20, UNSEEN, UNSEEN])
    close(third[1], [20] * 6)


def test_joint_training_counts_all_images(priors: Any) -> None:
    _, second, third = priors("joint")
    close(second[0], [IMAGES] * 4 + [UNSEEN] * 2)
    close(third[0], [IMAGES] * 6)
