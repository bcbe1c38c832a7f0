"""Evaluation after a task: predictions by the network (CNN) and by nearest class mean (NME)."""

import jax.numpy as jnp
import numpy as np

from bsce_jax.methods import Method, ModelState
from bsce_jax.scenario import Scenario
from bsce_jax.training.probe import FeedProbe

TOP = 5
BATCH = 4096  # images whose scores are computed at a time: a method may expand their features


def predict(
    method: Method,
    model: ModelState,
    scenario: Scenario,
    seen: int,
    means: np.ndarray | None,
    test: FeedProbe,
    records: np.ndarray,
    *,
    flip: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predict test images among the classes seen.

    Args:
      method: converts logits and features to scores.
      model: the model after the task.
      scenario: the classes, in order of arrival.
      seen: how many classes were seen.
      means: from `class_means`, None if a class has no exemplars.
      test: the probe of the test images.
      records: [n] test records.
      flip: whether features and logits are the means of those of an image and its mirror image.

    Returns:
      The CNN and the NME predictions, [n, 5] each, in the data set's labels, best first, -1 if
      fewer classes were seen; without class means the NME predictions are -1. And the mean over the
      images of each class's score, [seen].
    """
    features, logits = test.outputs(model, records)
    if flip:
        mirrored = test.outputs(model, records, mirrored=True)
        features, logits = (features + mirrored[0]) / 2, (logits + mirrored[1]) / 2
    logits[:, seen:] = -np.inf
    parts = []
    for start in range(0, len(records), BATCH):
        part = slice(start, start + BATCH)
        batch = jnp.asarray(logits[part]), jnp.asarray(features[part])
        parts.append(np.asarray(method.predict(*batch, model.extra)[:, :seen]))
    scores = np.concatenate(parts)
    cnn, mean_scores = top_classes(scores, scenario), scores.mean(axis=0)
    if means is None:
        return cnn, np.full_like(cnn, -1), mean_scores
    return cnn, top_classes(_unit(features) @ means.T, scenario), mean_scores


def old_and_new(mean_scores: np.ndarray, old: int) -> dict[str, float]:
    """Average the mean scores of the old and of the new classes.

    If the new ones are higher, the network is biased towards the new classes.

    Args:
      mean_scores: of `predict`, [seen].
      old: how many classes are old; they come first.

    Returns:
      `old_logit` and `new_logit`; one that is not finite is left out, as is that of no classes.
    """
    parts = {"old_logit": mean_scores[:old], "new_logit": mean_scores[old:]}
    return {
        name: float(part.mean())
        for name, part in parts.items()
        if part.size and np.isfinite(part).all()
    }


def class_means(
    model: ModelState, exemplars: tuple[tuple[int, ...], ...], train: FeedProbe
) -> np.ndarray | None:
    """Compute the class means of NME (Rebuffi et al. 2017, algorithm 1).

    Features are L2-normalised. Each exemplar is used twice, as it is and mirrored left to right, as
    in PODNet's code. (LUCIR's CIFAR code reverses the colour channels instead of mirroring, and its
    ImageNet code uses one view.) The means are normalised too.

    Args:
      model: whose features are taken.
      exemplars: training records in memory, class by class.
      train: the probe of the training images.

    Returns:
      [seen, D] float32 of unit length; None if a class has no exemplars.
    """
    if not all(exemplars):
        return None
    records = np.concatenate([np.asarray(e) for e in exemplars])
    owner = np.repeat(np.arange(len(exemplars)), [len(e) for e in exemplars])
    both = _unit(train.features(model, records)) + _unit(train.features(model, records, True))
    sums = np.zeros((len(exemplars), both.shape[1]), np.float32)
    np.add.at(sums, owner, both)
    return _unit(sums)


def top_classes(scores: np.ndarray, scenario: Scenario) -> np.ndarray:
    """Rank [n, seen] scores into [n, 5] labels of the data set, best first, -1 for none."""
    count = min(TOP, scores.shape[1])
    best = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
    top = np.full((len(scores), TOP), -1, np.int32)
    top[:, :count] = np.asarray(scenario.class_order)[np.take_along_axis(best, order, axis=1)]
    return top


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
