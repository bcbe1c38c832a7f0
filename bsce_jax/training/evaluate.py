"""Predictions after a task: by the network's own scores (CNN) and by nearest class mean (NME)."""

import jax.numpy as jnp
import numpy as np

from bsce_jax.methods.base import Method, ModelState
from bsce_jax.scenario import Scenario
from bsce_jax.training.inference import Eye

TOP = 5


def predict(
    method: Method,
    model: ModelState,
    scenario: Scenario,
    seen: int,
    exemplars: tuple[tuple[int, ...], ...],
    train: Eye,
    test: Eye,
    indices: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Predicts test images among the classes seen.

    Args:
      method: whose scores are ranked.
      model: the model after the task.
      scenario: the classes, in order of arrival.
      seen: how many classes were seen.
      exemplars: indices of the training records in memory, class by class.
      train: looks at the training set.
      test: looks at the test set.
      indices: [n] test records.

    Returns:
      The CNN and the NME predictions, [n, 5] each, in the data set's labels, best first, -1 where
      fewer classes were seen. NME needs exemplars of every class seen and is -1 without.
    """
    features, logits = test.look(model, indices)
    logits[:, seen:] = -np.inf
    scores = np.asarray(method.predict(jnp.asarray(logits), model.extra))
    cnn = top_classes(scores[:, :seen], scenario)
    if len(exemplars) < seen or not all(exemplars):
        return cnn, np.full_like(cnn, -1)
    means = class_means(model, exemplars, train)
    return cnn, top_classes(_unit(features) @ means.T, scenario)


def class_means(
    model: ModelState, exemplars: tuple[tuple[int, ...], ...], train: Eye
) -> np.ndarray:
    """Computes the means that NME compares with (Rebuffi et al. 2017, algorithm 1).

    As in LUCIR's code, features are L2-normalised, the mirrored images count too, and so does not
    the number of exemplars, since the means are normalised again.

    Returns:
      [seen, D] float32 of unit length.
    """
    indices = np.concatenate([np.asarray(e) for e in exemplars])
    owner = np.repeat(np.arange(len(exemplars)), [len(e) for e in exemplars])
    both = _unit(train.features(model, indices)) + _unit(train.features(model, indices, True))
    sums = np.zeros((len(exemplars), both.shape[1]), np.float32)
    np.add.at(sums, owner, both)
    return _unit(sums)


def top_classes(scores: np.ndarray, scenario: Scenario) -> np.ndarray:
    """Ranks [n, seen] scores into [n, 5] labels of the data set, best first, -1 for none."""
    count = min(TOP, scores.shape[1])
    best = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
    top = np.full((len(scores), TOP), -1, np.int32)
    top[:, :count] = np.asarray(scenario.class_order)[np.take_along_axis(best, order, axis=1)]
    return top


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
