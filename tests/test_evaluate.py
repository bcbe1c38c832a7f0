"""Predictions of finished runs, worked out again from the saved models, image by image."""

import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import make_config, some_digits, weights

from bsce_jax.config import make_method
from bsce_jax.methods import ModelState
from bsce_jax.models import Outputs, make_model
from bsce_jax.report import figures, runs, style, tables
from bsce_jax.runs import log
from bsce_jax.runs.saved import SavedRun
from bsce_jax.scenario import Scenario
from bsce_jax.training import evaluate
from bsce_jax.training.loop import run

DATA = some_digits(14, 6)
METHODS = ("il_baseline", "bic", "il2m", "podnet")
ORDER = (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)
SEEN = (6, 10)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    found = {method: tmp_path_factory.mktemp(method) for method in METHODS}
    for method, folder in found.items():
        fields: dict[str, Any] = {
            "scenario.class_order": ",".join(map(str, ORDER)),
            "scenario.base": SEEN[0],
            "scenario.increment": 4,
            "train.epochs": 4,
            "runtime.keep_models": "all",
        }
        if method in ("bic", "il2m"):
            fields["model.name"] = "tiny_linear"
        if method == "podnet":
            fields |= {"method.finetune_epochs": 1}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(evaluate, "BATCH", 7)  # of 36 and 60 test images
            run(make_config(method, None, fields), folder, DATA)
    return found


def outputs(saved: SavedRun, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features and logits by a pass of our own over the saved arrays."""
    flat = weights(saved.folder, saved.task)
    variables: dict[str, Any] = {}
    for path, value in flat.items():
        *branches, leaf = path.split("/")
        node = variables
        for branch in branches:
            node = node.setdefault(branch, {})
        node[leaf] = jnp.asarray(value)
    x = jnp.asarray((images / 255 - DATA.mean[0]) / DATA.std[0], jnp.float32)
    method = make_method(saved.config)
    network = make_model(saved.config.model.name, head=method.head, num_classes=10, dtype="float32")
    state = {part: variables.get(part, {}) for part in ("params", "batch_stats")}
    said = network.apply(state, x, train=False)
    assert isinstance(said, Outputs)
    extra = variables.get("extra", {})
    logits = np.where(np.arange(10) < len(saved.class_names), said.logits, -np.inf)
    return np.asarray(said.features), np.asarray(
        method.predict(jnp.asarray(logits), said.features, extra)
    )


def means_by_a_loop(saved: SavedRun) -> np.ndarray:
    """Average the unit features of every exemplar, as it is and mirrored (iCaRL, algorithm 1)."""
    means = []
    for records in saved.results["memory"]["indices"][saved.task]:
        total = np.zeros(64)
        for image in DATA.train.images(records):
            for view in (image, image[:, ::-1]):
                feature = outputs(saved, view[None])[0][0].astype(np.float64)
                total += feature / np.linalg.norm(feature)
        means.append(total / np.linalg.norm(total))
    return np.array(means)


def assert_ranked(top: np.ndarray, scores: np.ndarray, seen: int) -> None:
    """The five best scores in falling order, each belonging to the label that is named."""
    assert top.shape == (len(scores), 5)
    place = np.argsort(ORDER)[top]
    assert (place < seen).all()
    named = np.take_along_axis(scores, place, axis=1)
    best = -np.sort(-scores[:, :seen], axis=1)[:, :5]
    np.testing.assert_allclose(named, best, rtol=1e-4, atol=1e-5)
    assert all(len(set(row)) == 5 for row in top)


@pytest.mark.parametrize("task", [0, 1])
def test_class_means_are_those_of_a_plain_loop_over_images_and_mirrored_images(
    folders: dict[str, pathlib.Path], task: int
) -> None:
    saved = SavedRun.open(folders["il_baseline"], task)
    kept = weights(saved.folder, task)["class_means"]
    assert kept.shape == (SEEN[task], 64)
    np.testing.assert_allclose(kept, means_by_a_loop(saved), atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("task", [0, 1])
def test_predictions_are_those_of_the_saved_model(
    folders: dict[str, pathlib.Path], method: str, task: int
) -> None:
    seen, saved = SEEN[task], SavedRun.open(folders[method], task)
    assert saved.class_names == tuple(str(label) for label in ORDER[:seen])
    with np.load(folders[method] / "predictions" / f"task_{task:02d}.npz") as file:
        labels, cnn, nme = file["labels"], file["cnn_top5"], file["nme_top5"]
    test = np.flatnonzero(np.isin(DATA.test.labels, ORDER[:seen]))
    np.testing.assert_array_equal(labels, DATA.test.labels[test])
    images = DATA.test.images(test)
    features, scores = outputs(saved, images)
    assert_ranked(cnn, scores, seen)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    means = weights(saved.folder, task)["class_means"]
    assert_ranked(nme, unit @ means.T, seen)

    by_cnn, by_nme = saved.predict(images), saved.predict(images, by="nme")
    assert by_cnn.shape == by_nme.shape == (len(test), seen)
    np.testing.assert_allclose(by_cnn, scores[:, :seen], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(by_nme, unit @ means.T, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(np.array(ORDER)[by_cnn.argmax(axis=1)], cnn[:, 0])
    np.testing.assert_array_equal(np.array(ORDER)[by_nme.argmax(axis=1)], nme[:, 0])

    entries = [e for e in log.read(folders[method]) if e["kind"] == "task"]
    assert entries[task]["new_logit"] == pytest.approx(by_cnn[:, SEEN[0] * task :].mean(), rel=1e-3)
    if task == 0:
        assert "old_logit" not in entries[0]
    else:
        assert entries[1]["old_logit"] == pytest.approx(by_cnn[:, : SEEN[0]].mean(), rel=1e-3)


def test_a_report_reads_the_run_and_its_head(folders: dict[str, pathlib.Path]) -> None:
    found = runs.read(folders["podnet"])
    assert found is not None
    assert not found.missing
    head = weights(folders["podnet"], 1)["params/head/weight"]  # [classes, proxies, width]
    assert found.norms == pytest.approx(np.sqrt((head**2).sum(axis=2)).mean(axis=1), rel=1e-5)
    assert found.training_images == [14] * 10
    assert [len(count) for count in found.exemplars] == list(SEEN)
    assert found.outcome is not None
    assert 100 * np.equal(*found.outcome).mean() == pytest.approx(found.cnn["accuracy"][-1])
    (scenario,) = runs.scenarios([found])
    (last,) = (row for row in tables.norms(scenario.groups) if row["arrival"] == 10)
    assert (last["task"], last["mean"]) == (2, pytest.approx(found.norms[9]))
    named = {figure.name for figure in figures.make(scenario, style.PAPER)}
    assert named >= {"norms", "logit_gap", "scale", "classes", "confusion_1", "training", "time"}


def test_a_score_that_is_not_finite_is_not_logged() -> None:
    assert evaluate.old_and_new(np.array([1.0, 3.0, np.inf]), 2) == {"old_logit": 2.0}
    assert evaluate.old_and_new(np.array([1.0, 3.0]), 0) == {"new_logit": 2.0}


def test_methods_that_correct_scores_do_so_in_the_predictions(
    folders: dict[str, pathlib.Path],
) -> None:
    """Lest the comparison above be one of scores that nothing was done to."""
    for method in ("bic", "il2m"):
        saved = SavedRun.open(folders[method], 1)
        images = DATA.test.images(np.arange(len(DATA.test.labels)))
        flat = weights(saved.folder, 1)
        plain = {k: v for k, v in flat.items() if k.startswith("extra/")}
        assert any((value != plain[k].flat[0]).any() for k, value in plain.items())
        assert np.isfinite(saved.predict(images)).all()


class Mirror:
    """A probe of one feature a side: what is dark left and right of the middle."""

    def __init__(self, images: np.ndarray):
        self.images = images

    def features(self, model: Any, records: np.ndarray, mirrored: bool = False) -> np.ndarray:
        images = self.images[records].astype(np.float32)
        if mirrored:
            images = images[:, ::-1]
        return images


def test_means_by_hand() -> None:
    images = np.array([[3.0, 4.0], [0.0, 2.0], [5.0, 12.0]])
    model = ModelState(params={}, batch_stats={}, extra={})
    means = evaluate.class_means(model, ((0, 1), (2,)), Mirror(images))  # type: ignore[arg-type]  # a fake
    # (3, 4)/5 + (4, 3)/5 + (0, 1) + (1, 0), and (5, 12)/13 + (12, 5)/13: both along (1, 1)
    assert means is not None
    np.testing.assert_allclose(means, np.full((2, 2), np.sqrt(0.5)), rtol=1e-6)
    assert evaluate.class_means(model, ((0,), ()), Mirror(images)) is None  # type: ignore[arg-type]  # a fake


def test_fewer_than_five_classes_are_ranked_with_minus_one_behind() -> None:
    scenario = Scenario(((7, 3), (5,)))
    scores = np.array([[0.1, 0.9, 0.5], [2.0, -1.0, 0.0]])
    top = evaluate.top_classes(scores, scenario)
    np.testing.assert_array_equal(top, [[3, 5, 7, -1, -1], [7, 5, 3, -1, -1]])
    np.testing.assert_array_equal(
        evaluate.top_classes(scores[:, :2], scenario), [[3, 7, -1, -1, -1], [7, 3, -1, -1, -1]]
    )
