"""Losses of class-incremental learning, as plain functions of arrays.

Every loss returns one number per example, shape [batch], and leaves the reduction to the caller. It
is computed and returned in float32 whatever the input's precision. C is the number of classes of
the whole scenario: which of them exist is said by arrays (`log_prior`, `seen`, `old`, `where`), so
a new task changes values, never shapes. A class left out has probability 0 and gradient exactly 0.
Teachers are constants: no gradient flows into them.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def class_log_prior(
    counts: ArrayLike,
    *,
    tau: ArrayLike = 1.0,
    seen: ArrayLike | None = None,
    floor: ArrayLike = 0.0,
) -> jax.Array:
    """Compute the log-prior that balances the softmax: tau log(max(n_j, floor)), -inf if unseen.

    `tau` is the strength of the correction: 0 gives plain cross-entropy over the seen classes, 1
    the balanced softmax. The floor is the relaxed prior of learning without memory, where an old
    class has no training sample left; a seen class with neither sample nor floor gets -inf too,
    unless tau is 0.

    Args:
      counts: training samples of each class in this task's training set, exemplars included, [C].
        May be fractional, traced and learned.
      tau: scale of the log-prior, scalar.
      seen: mask of the classes seen so far, bool [C]; by default those with a count above 0.
      floor: least count of a seen class, in samples, scalar or [C].

    Returns:
      The log-prior, float32 [C]. Any common factor of the counts cancels in the loss.

    Source: Ren et al. 2020, "Balanced Meta-Softmax for Long-Tailed Visual Recognition", Theorem 1;
    tau from Menon et al. 2021, "Long-Tail Learning via Logit Adjustment", Eq. 10; the floor from
    Jodelet et al. 2022, "Balanced Softmax Cross-Entropy for Incremental Learning with and without
    Memory".

    >>> from bsce_jax import losses
    >>> print(losses.class_log_prior(jnp.array([20, 500, 0])).round(2))
    [3.   6.21 -inf]
    """
    counts, tau = _float32(counts), _float32(tau)
    exists = counts > 0 if seen is None else jnp.asarray(seen, bool)
    counts = jnp.maximum(counts, _float32(floor))
    some = counts > 0
    # log(1) stands in for log(0), whose gradient would be NaN even where it is not selected.
    log_prior = tau * jnp.log(jnp.where(some, counts, 1.0))
    return jnp.where(exists & (some | (tau == 0)), log_prior, -jnp.inf)


def softmax_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, log_prior: ArrayLike | None = None
) -> jax.Array:
    """Compute the softmax cross-entropy of logits shifted by a log-prior: CE(z + log_prior, y).

    Args:
      logits: unnormalised scores z, [batch, C].
      labels: class of each example, int [batch]. A label whose prior is -inf has loss inf.
      log_prior: added to the logits, [C] or [batch, C]; -inf removes a class, whatever its logit.
        None adds nothing.

    Returns:
      Loss of each example, float32 [batch].
    """
    scores = _add_prior(logits, log_prior)
    return _logsumexp(scores) - _at(scores, labels)


def balanced_softmax_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, counts: ArrayLike, *, tau: ArrayLike = 1.0
) -> jax.Array:
    """Compute the Balanced Softmax Cross-Entropy: -log(n_y exp(z_y) / sum_j n_j exp(z_j)).

    For training only: predict with the plain logits. With equal counts it is plain cross-entropy.
    Where a seen class may have count 0, use `softmax_cross_entropy` with a `class_log_prior`.

    Args:
      logits: unnormalised scores z, [batch, C].
      labels: class of each example, int [batch].
      counts: training samples n of each class, [C]; 0 means the class does not exist yet.
      tau: scale of the log-prior, scalar; 0 is plain cross-entropy, 1 the balanced softmax.

    Returns:
      Loss of each example, float32 [batch].

    Source: Ren et al. 2020, "Balanced Meta-Softmax for Long-Tailed Visual Recognition", Theorem 1;
    Jodelet et al. 2021, "Balanced Softmax Cross-Entropy for Incremental Learning".

    An undecided model pays more for the class with 20 samples than for that with 500:

    >>> from bsce_jax import losses
    >>> logits, labels = jnp.zeros((2, 3)), jnp.array([0, 1])
    >>> counts = jnp.array([20, 500, 0])
    >>> loss = losses.balanced_softmax_cross_entropy(logits, labels, counts)
    >>> print(f"{loss[0]:.3f} {loss[1]:.3f}")
    3.258 0.039
    """
    return softmax_cross_entropy(logits, labels, class_log_prior(counts, tau=tau))


def separated_softmax_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, old: ArrayLike, *, log_prior: ArrayLike | None = None
) -> jax.Array:
    """Compute the cross-entropy over the old classes or over the others, whichever hold the label.

    Args:
      logits: unnormalised scores, [batch, C].
      labels: class of each example, int [batch].
      old: mask of the classes of earlier tasks, bool [C].
      log_prior: added to the logits, [C] or [batch, C]; -inf removes a class not yet seen.

    Returns:
      Loss of each example, float32 [batch].

    Source: Ahn et al. 2021, "SS-IL: Separated Softmax for Incremental Learning".
    """
    old = jnp.asarray(old, bool)
    same_side = old == old[jnp.asarray(labels)][..., None]
    scores = jnp.where(same_side, _add_prior(logits, log_prior), -jnp.inf)
    return _logsumexp(scores) - _at(scores, labels)


def binary_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, seen: ArrayLike | None = None
) -> jax.Array:
    """Compute the one-vs-rest cross-entropy: -log s(z_y) - sum_{j != y} log(1 - s(z_j)), s sigmoid.

    Args:
      logits: unnormalised scores z, [batch, C].
      labels: class of each example, int [batch].
      seen: mask of the classes to sum over, bool [C] or [batch, C]; None means all.

    Returns:
      Loss of each example, float32 [batch].

    Source: Rebuffi et al. 2017, "iCaRL: Incremental Classifier and Representation Learning",
    classification term of Algorithm 3.
    """
    logits = _float32(logits)
    return _sigmoid_cross_entropy(logits, jax.nn.one_hot(labels, logits.shape[-1]), seen)


def binary_distillation(
    logits: ArrayLike, teacher_logits: ArrayLike, *, where: ArrayLike | None = None
) -> jax.Array:
    """Compute the one-vs-rest cross-entropy against the teacher's sigmoids q_j = s(t_j).

    The loss is -sum_j [q_j log s(z_j) + (1 - q_j) log(1 - s(z_j))]. Its least value is the entropy
    of the teacher's outputs, not 0.

    Args:
      logits: the student's unnormalised scores z, [batch, C].
      teacher_logits: the teacher's t, [batch, C].
      where: mask of the classes to sum over, bool [C] or [batch, C]; None means all.

    Returns:
      Loss of each example, float32 [batch].

    Source: Rebuffi et al. 2017, "iCaRL: Incremental Classifier and Representation Learning",
    distillation term of Algorithm 3.
    """
    teacher = jax.nn.sigmoid(jax.lax.stop_gradient(_float32(teacher_logits)))
    return _sigmoid_cross_entropy(_float32(logits), teacher, where)


def distillation(
    logits: ArrayLike,
    teacher_logits: ArrayLike,
    *,
    temperature: float | jax.Array = 2.0,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Compute the distillation loss: T^2 KL(softmax(t / T) || softmax(z / T)).

    T^2 keeps the size of the gradient the same at every temperature.

    Args:
      logits: the student's unnormalised scores z, [batch, C], without any prior.
      teacher_logits: the teacher's t, [batch, C].
      temperature: T, scalar.
      where: mask of the classes both softmaxes run over, bool [C] or [batch, C]; None means all.
        An example for which it holds no class has loss 0 and gradient 0.

    Returns:
      Loss of each example, float32 [batch].

    Source: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network"; Li and Hoiem 2016,
    "Learning without Forgetting".

    >>> from bsce_jax import losses
    >>> student, teacher = jnp.array([[0.0, 0.0, 9.0]]), jnp.array([[2.0, 0.0, 0.0]])
    >>> old = jnp.array([True, True, False])
    >>> print(f"{losses.distillation(student, teacher, where=old)[0]:.3f}")
    0.444
    """
    classes = jnp.asarray(True if where is None else where, bool)

    def log_softmax(logits: ArrayLike) -> jax.Array:
        scores = _float32(logits) / temperature
        return scores - _logsumexp(jnp.where(classes, scores, -jnp.inf))[..., None]

    teacher = jax.lax.stop_gradient(log_softmax(teacher_logits))
    return temperature**2 * _kl_divergence(teacher, log_softmax(logits), classes)


def taskwise_distillation(
    logits: ArrayLike,
    teacher_logits: ArrayLike,
    task_of_class: ArrayLike,
    old: ArrayLike,
    *,
    temperature: float | jax.Array = 2.0,
) -> jax.Array:
    """Compute the sum over the old tasks of the `distillation` restricted to the task's classes.

    The number of tasks is not a shape: a new task compiles nothing anew.

    Args:
      logits: the student's unnormalised scores, [batch, C], without any prior.
      teacher_logits: the teacher's, [batch, C].
      task_of_class: task that brings each class, int [C], 0 to C - 1; free where `old` is false.
      old: mask of the classes of earlier tasks, bool [C].
      temperature: T, scalar.

    Returns:
      Loss of each example, float32 [batch]; 0 while no class is old.

    Source: Ahn et al. 2021, "SS-IL: Separated Softmax for Incremental Learning" (task-wise
    knowledge distillation); Castro et al. 2018, "End-to-End Incremental Learning" (EEIL).
    """
    old = jnp.asarray(old, bool)
    # No more tasks than classes: a static bound. The classes not old are a group of their own.
    num_groups = old.shape[-1] + 1
    group = jnp.where(old, jnp.asarray(task_of_class), num_groups - 1)

    def log_softmax(logits: ArrayLike) -> jax.Array:
        scores = jnp.where(old, _float32(logits) / temperature, 0.0)
        by_class = jnp.moveaxis(scores, -1, 0)
        peak = jax.ops.segment_max(jax.lax.stop_gradient(by_class), group, num_groups)[group]
        total = jax.ops.segment_sum(jnp.exp(by_class - peak), group, num_groups)[group]
        return scores - jnp.moveaxis(peak + jnp.log(total), 0, -1)

    teacher = jax.lax.stop_gradient(log_softmax(teacher_logits))
    return temperature**2 * _kl_divergence(teacher, log_softmax(logits), old)


def less_forget(features: ArrayLike, teacher_features: ArrayLike) -> jax.Array:
    """Compute the less-forget loss, one minus the cosine to the teacher's features; also POD-flat.

    Args:
      features: the student's features, [batch, dim]. A zero vector has cosine 0 with everything.
      teacher_features: the teacher's, [batch, dim].

    Returns:
      Loss of each example, 0 to 2, float32 [batch].

    Source: Hou et al. 2019, "Learning a Unified Classifier Incrementally via Rebalancing" (LUCIR),
    Eq. 6; Douillard et al. 2020, "PODNet" (POD-flat).
    """
    teacher = jax.lax.stop_gradient(_normalise(_float32(teacher_features)))
    return 1.0 - jnp.sum(_normalise(_float32(features)) * teacher, axis=-1)


def margin_ranking(
    cosines: ArrayLike,
    labels: ArrayLike,
    old: ArrayLike,
    *,
    k: int = 2,
    margin: float = 0.5,
    seen: ArrayLike | None = None,
) -> jax.Array:
    """Compute the inter-class separation of old examples from the new classes nearest to them.

    mean over the k highest new-class cosines c_i of max(0, margin - c_y + c_i); over all the new
    classes where there are fewer than k. An example of a new class has loss 0: to take the mean
    over the old examples, as the paper does, divide the batch's sum by their number.

    Args:
      cosines: cosine of the features to each class vector, before any scale or prior, [batch, C].
      labels: class of each example, int [batch].
      old: mask of the classes of earlier tasks, bool [C].
      k: how many new classes compete.
      margin: cosine by which the label should win.
      seen: mask of the classes seen so far, bool [C]: the new classes are `seen & ~old`. None means
        that all classes have been seen.

    Returns:
      Loss of each example, float32 [batch].

    Source: Hou et al. 2019, "Learning a Unified Classifier Incrementally via Rebalancing" (LUCIR),
    Eq. 8.

    >>> from bsce_jax import losses
    >>> cosines, old = jnp.array([[0.8, 0.1, 0.6, 0.4]]), jnp.array([True, True, False, False])
    >>> print(f"{losses.margin_ranking(cosines, jnp.array([0]), old)[0]:.3f}")
    0.200
    """
    cosines = _float32(cosines)
    old = jnp.asarray(old, bool)
    new = ~old if seen is None else ~old & jnp.asarray(seen, bool)
    k = min(k, cosines.shape[-1])
    rivals, _ = jax.lax.top_k(jnp.where(new, cosines, -jnp.inf), k)
    # Fewer than k new classes leave -inf among the rivals: no violation, and not counted.
    violations = jax.nn.relu(margin - _at(cosines, labels)[..., None] + rivals)
    mean = violations.sum(axis=-1) / jnp.clip(new.sum(), 1, k)
    return jnp.where(old[jnp.asarray(labels)], mean, 0.0)


def pod_spatial(maps: Sequence[ArrayLike], teacher_maps: Sequence[ArrayLike]) -> jax.Array:
    """Compute the POD-spatial distance between the student's and the teacher's feature maps.

    Each map is squared and summed over its height and, apart, over its width; the two sums, joined
    and L2-normalised, are compared by their L2 distance. The loss is the mean over the stages.

    Args:
      maps: the student's feature maps, one [batch, height, width, channels] array per stage.
      teacher_maps: the teacher's, of the same shapes.

    Returns:
      Loss of each example, 0 to sqrt(2), float32 [batch]. Where student and teacher agree up to
      rounding (1e-6), as in the first step from a copy, both the loss and its gradient are 0.

    Raises:
      ValueError: the numbers of stages differ, or there is none.

    Source: Douillard et al. 2020, "PODNet: Pooled Outputs Distillation for Small-Tasks Incremental
    Learning".
    """

    def pool(map_: ArrayLike) -> jax.Array:
        squared = jnp.square(_float32(map_))
        sums = [squared.sum(axis=axis) for axis in (-3, -2)]
        flat = [x.reshape(*x.shape[:-2], -1) for x in sums]
        return _normalise(jnp.concatenate(flat, axis=-1))

    def distance(map_: ArrayLike, teacher_map: ArrayLike) -> jax.Array:
        square = jnp.square(pool(map_) - jax.lax.stop_gradient(pool(teacher_map))).sum(axis=-1)
        # At 0 the root has no slope, and close to it only that of the rounding, at full size.
        apart = square > 1e-12
        return jnp.where(apart, jnp.sqrt(jnp.where(apart, square, 1.0)), 0.0)

    distances = [distance(*pair) for pair in zip(maps, teacher_maps, strict=True)]
    return jnp.stack(distances).mean(axis=0)


def nca(
    similarities: ArrayLike,
    labels: ArrayLike,
    *,
    scale: ArrayLike,
    margin: ArrayLike = 0.6,
    log_prior: ArrayLike | None = None,
    exclude_positive: bool = True,
    hinge: bool = False,
    reference_quirks: bool = False,
) -> jax.Array:
    """Compute PODNet's classification loss, neighbourhood component analysis with a margin.

    With scores z_j = scale (s_j - margin [j = y]) + log_prior_j the loss is

        -z_y + log sum_{j != y} exp(z_j),

    where a log-prior of class counts makes it the balanced NCA. Without the hinge it falls below 0
    and has no least value: a learned scale grows for as long as the examples are right.

    Args:
      similarities: cosine s of the features to each class, [batch, C].
      labels: class of each example, int [batch].
      scale: factor of the similarities, scalar, may be learned.
      margin: taken off the label's similarity, scalar.
      log_prior: added to the scaled similarities, [C] or [batch, C]; -inf removes a class.
      exclude_positive: leave the label out of the sum, as NCA does. Otherwise the loss is the
        cross-entropy of z.
      hinge: take 0 for values below it, as the paper's equation 8 does.
      reference_quirks: compute what the published code does. It takes the margin off every class,
        where it cancels, and then the row's highest score off every score, so that the label left
        out still counts exp(0) in the sum. That is the same as `max_j z_j` in the label's place.

    Returns:
      Loss of each example, float32 [batch]. Where no class but the label is left (one class seen
      so far, label excluded) there is nothing to separate: loss 0 and gradient 0.

    Source: Douillard et al. 2020, "PODNet: Pooled Outputs Distillation for Small-Tasks Incremental
    Learning"; Movshovitz-Attias et al. 2017, "No Fuss Distance Metric Learning using Proxies".

    >>> from bsce_jax import losses
    >>> similarities, labels = jnp.array([[0.9, 0.1, -0.5]]), jnp.array([0])
    >>> print(f"{losses.nca(similarities, labels, scale=4.0)[0]:.3f}")
    -0.713
    """
    scale = _float32(scale)
    scores = _add_prior(scale * _float32(similarities), log_prior)
    label = jnp.asarray(labels)[..., None] == jnp.arange(scores.shape[-1])
    if not reference_quirks:
        scores = jnp.where(label, scores - scale * margin, scores)
    rivals = scores
    if exclude_positive:
        left_out = scores.max(axis=-1, keepdims=True) if reference_quirks else -jnp.inf
        rivals = jnp.where(label, left_out, scores)
    loss = _logsumexp(rivals) - _at(scores, labels)
    loss = jnp.where(jnp.isneginf(rivals).all(axis=-1), 0.0, loss)
    return jnp.maximum(loss, 0.0) if hinge else loss


def _float32(x: ArrayLike) -> jax.Array:
    return jnp.asarray(x, jnp.float32)


def _at(scores: jax.Array, labels: ArrayLike) -> jax.Array:
    """Pick each example's score at its label: [batch, C] and [batch] to [batch]."""
    return jnp.take_along_axis(scores, jnp.asarray(labels)[..., None], axis=-1)[..., 0]


def _add_prior(logits: ArrayLike, log_prior: ArrayLike | None) -> jax.Array:
    """Add the log-prior; a prior of -inf wins over any logit, even an infinite or NaN one."""
    scores = _float32(logits)
    if log_prior is None:
        return scores
    prior = _float32(log_prior)
    return jnp.where(jnp.isneginf(prior), -jnp.inf, scores + prior)


def _logsumexp(scores: jax.Array) -> jax.Array:
    """Compute log sum_j exp(z_j), [batch]; 0, with gradient 0, where every score is -inf."""
    empty = jnp.isneginf(scores).all(axis=-1, keepdims=True)
    total = jax.nn.logsumexp(jnp.where(empty, 0.0, scores), axis=-1)
    return jnp.where(empty[..., 0], 0.0, total)


def _kl_divergence(log_p: jax.Array, log_q: jax.Array, where: jax.Array) -> jax.Array:
    """Compute sum_j p_j (log p_j - log q_j) over the classes in `where`, [batch]."""
    # Cleared before the product: outside `where` neither is a log-probability.
    log_p, log_q = jnp.where(where, log_p, 0.0), jnp.where(where, log_q, 0.0)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def _sigmoid_cross_entropy(
    logits: jax.Array, targets: jax.Array, where: ArrayLike | None
) -> jax.Array:
    """Sum the binary cross-entropies over the classes in `where` (None: all), [batch]."""
    classes = jnp.asarray(True if where is None else where, bool)
    logits, targets = jnp.where(classes, logits, 0.0), jnp.where(classes, targets, 0.0)
    losses = targets * jax.nn.softplus(-logits) + (1.0 - targets) * jax.nn.softplus(logits)
    return jnp.sum(jnp.where(classes, losses, 0.0), axis=-1)


def _normalise(x: jax.Array) -> jax.Array:
    """Scale to L2 norm 1 along the last axis; a vector shorter than 1e-12 is left as it is."""
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.where(square > 1e-24, square, 1.0))
