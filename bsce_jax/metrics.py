"""The figures of a run: accuracies in percent, and forgetting.

Labels and predictions may use any numbering of the classes, if it is the same one. Predictions are
[n, K], best first, -1 where there is none.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

Matrix = list[list[float | None]]


def top_k_accuracy(labels: np.ndarray, predictions: np.ndarray, k: int) -> float:
    """Compute how often the label is among the k best predictions.

    Args:
      labels: true classes, int [n].
      predictions: int [n, K], best first, -1 for none.
      k: how many of the predictions count; all K if there are fewer.

    Returns:
      Accuracy in %.

    Raises:
      ValueError: arrays of other shapes, or no image at all.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if labels.ndim != 1 or predictions.ndim != 2 or len(labels) != len(predictions):
        raise ValueError(
            f"labels should be [n] and predictions [n, K]: got {labels.shape}, {predictions.shape}"
        )
    if not predictions.size:
        raise ValueError("the accuracy over no predictions is not defined")
    return 100 * float((predictions[:, :k] == labels[:, None]).any(axis=1).mean())


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Compute the top-1 accuracy in %; see `top_k_accuracy`."""
    return top_k_accuracy(labels, predictions, 1)


def class_mean_accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Compute the mean over classes of the top-1 accuracy on each class's images.

    It differs from `accuracy` where classes have unequal numbers of test images.

    Args:
      labels: true classes, int [n].
      predictions: int [n, K], best first.

    Returns:
      Accuracy in %, over the classes that have images.

    Raises:
      ValueError: as `top_k_accuracy`.
    """
    top_k_accuracy(labels, predictions, 1)  # checks the arrays
    _, classes, images = np.unique(labels, return_inverse=True, return_counts=True)
    hits = np.bincount(classes, np.asarray(predictions)[:, 0] == labels)
    return 100 * float((hits / images).mean())


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Count the images of each class by the class that is predicted.

    Args:
      labels: true classes, int [n], from 0 to `classes - 1`.
      predictions: int [n], likewise.
      classes: how many there are.

    Returns:
      int [classes, classes]: entry [i, j] counts the images of class i that are taken for class j.
    """
    pairs = np.asarray(labels, np.int64) * classes + predictions
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def task_matrix(
    outcomes: Sequence[tuple[np.ndarray, np.ndarray]], tasks: Sequence[Sequence[int]]
) -> Matrix:
    """Compute the accuracy on the test images of each task after each task.

    Args:
      outcomes: after each finished task the labels [n] and predictions [n, K] of the test images of
        all classes seen.
      tasks: labels of each task's classes; there may be more tasks than outcomes.

    Returns:
      Square matrix, a row for each outcome: entry [t][k] is the top-1 accuracy in % on the images
      of task k after task t, predicted among all classes seen by then. None for k > t, and for a
      task without test images.

    Raises:
      ValueError: an image of a class that was not seen.
    """
    task_of = {label: task for task, labels in enumerate(tasks) for label in labels}
    matrix: Matrix = []
    for t, (labels, predictions) in enumerate(outcomes):
        present, inverse = np.unique(labels, return_inverse=True)
        own = np.array([task_of.get(label, len(tasks)) for label in present.tolist()], int)[inverse]
        if (own > t).any():
            raise ValueError(
                f"{(own > t).sum()} test images after task {t} are of classes not seen"
            )
        images = np.bincount(own, minlength=len(outcomes))
        hits = np.bincount(own, predictions[:, 0] == labels, minlength=len(outcomes))
        matrix.append(
            [
                100 * h / n if n else None
                for h, n in zip(hits.tolist(), images.tolist(), strict=True)
            ]
        )
    return matrix


def forgetting(matrix: Sequence[Sequence[float | None]]) -> float | None:
    """Compute how much of the best accuracy on old tasks is lost after the last task.

    Args:
      matrix: of `task_matrix`, T + 1 rows.

    Returns:
      The mean over the old tasks k < T of max(a[t][k] for t = k to T - 1) - a[T][k], in percentage
      points; below 0 where old tasks got better. None without an old task.

    Source: Chaudhry et al. 2018, "Riemannian Walk for Incremental Learning", the measure F.
    """
    *past, last = matrix
    drops = [
        max(before) - final
        for k, final in enumerate(last[:-1])
        if final is not None and (before := [a for row in past[k:] if (a := row[k]) is not None])
    ]
    return sum(drops) / len(drops) if drops else None


def average_incremental(accuracies: Sequence[float]) -> float:
    """Compute the average incremental accuracy: the plain mean over tasks, the first included.

    Args:
      accuracies: after each task, over all classes seen.

    Source: Rebuffi et al. 2017, "iCaRL", section 4. Some papers leave the first task out:
    their figures are not comparable with these.
    """
    return sum(accuracies) / len(accuracies)


def summarize(
    outcomes: Sequence[tuple[np.ndarray, np.ndarray]], tasks: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """Compute all figures of one kind of prediction.

    Args:
      outcomes: after each finished task, at least one, the labels [n] and predictions [n, 5] of the
        test images of all classes seen.
      tasks: labels of each task's classes; there may be more tasks than outcomes.

    Returns:
      `accuracy`, `class_mean` and `top5` over all classes seen, `old` and `new` over the classes of
      earlier tasks and of the task itself, one number a task; the square `matrix` of `task_matrix`;
      and `average_incremental`, `last` and `forgetting`, one number each. Plain floats, in %; None
      where a figure does not apply.

    Raises:
      ValueError: arrays of other shapes, images of classes not seen, or no images.
    """
    accuracies = [accuracy(*outcome) for outcome in outcomes]
    matrix = task_matrix(outcomes, tasks)
    old = [
        _accuracy_where(~np.isin(labels, new), labels, predictions)
        for (labels, predictions), new in zip(outcomes, tasks, strict=False)
    ]
    return {
        "accuracy": accuracies,
        "average_incremental": average_incremental(accuracies),
        "last": accuracies[-1],
        "class_mean": [class_mean_accuracy(*outcome) for outcome in outcomes],
        "top5": [top_k_accuracy(*outcome, 5) for outcome in outcomes],
        "matrix": matrix,
        "forgetting": forgetting(matrix),
        "old": old,
        "new": [matrix[t][t] for t in range(len(outcomes))],
    }


def _accuracy_where(mask: np.ndarray, labels: np.ndarray, predictions: np.ndarray) -> float | None:
    return accuracy(labels[mask], predictions[mask]) if mask.any() else None
