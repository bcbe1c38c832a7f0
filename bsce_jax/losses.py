"""Losses of class-incremental learning, as plain functions of arrays.

Every loss returns one number per example, shape [batch], and leaves the reduction to the caller. It
is computed and returned in float32 whatever the input's precision. C is the number of classes of
the whole scenario. Arrays say which of them exist (`log_prior`, `seen`, `old`, `where`), so a new
task changes values, never shapes. A class left out has probability 0 and gradient exactly 0.
Teachers are constants: no gradient flows into them.

The functions work under `jit`, `vmap` and `grad`, and with the batch sharded over a mesh of Auto or
Explicit axes. An argument of a shape other than those in its description raises a ValueError, one
of another dtype a TypeError, both while tracing. Labels are integers or whole floats, 0 to C - 1.
Their values are unknown while tracing, so another label cannot raise: its example has loss NaN.
To pad a batch, use a label that exists and weight 0.
"""

from collections.abc import Callable, Sequence

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
    class has no training sample left. A seen class with neither sample nor floor gets -inf too,
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
    counts, tau = _numbers("counts", counts), _numbers("tau", tau, ())
    if counts.ndim != 1:
        raise ValueError(f"counts has shape {counts.shape}; want one number per class, (C,)")
    exists = counts > 0 if seen is None else _mask("seen", seen, counts.shape)
    counts = jnp.maximum(counts, _numbers("floor", floor, (), counts.shape))
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
      labels: class of each example, [batch]. One whose prior is -inf has loss inf; one outside 0
        to C - 1 has loss NaN.
      log_prior: added to the logits, [C] or [batch, C]; -inf removes a class, whatever its logit.
        None adds nothing.

    Returns:
      Loss of each example, float32 [batch].
    """
    scores = _add_prior(_rows("logits", logits), log_prior)
    is_label = _one_hot(labels, scores)
    return _nan_unless(is_label.any(axis=-1), _logsumexp(scores) - _pick(scores, is_label))


def balanced_softmax_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, counts: ArrayLike, *, tau: ArrayLike = 1.0
) -> jax.Array:
    """Compute the Balanced Softmax Cross-Entropy: -log(n_y exp(z_y) / sum_j n_j exp(z_j)).

    Use it for training only, and predict with the plain logits. With equal counts it is plain
    cross-entropy. Where a seen class may have count 0, use `softmax_cross_entropy` with a
    `class_log_prior`.

    Args:
      logits: unnormalised scores z, [batch, C].
      labels: class of each example, [batch]; one outside 0 to C - 1 has loss NaN.
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
    logits = _rows("logits", logits)
    counts = _numbers("counts", counts, logits.shape[-1:])
    return softmax_cross_entropy(logits, labels, class_log_prior(counts, tau=tau))


def separated_softmax_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, old: ArrayLike, *, log_prior: ArrayLike | None = None
) -> jax.Array:
    """Compute the cross-entropy over the group of classes, old or other, that has the label.

    Args:
      logits: unnormalised scores, [batch, C].
      labels: class of each example, [batch]; one outside 0 to C - 1 has loss NaN.
      old: mask of the classes of earlier tasks, bool [C].
      log_prior: added to the logits, [C] or [batch, C]; -inf removes a class not yet seen.

    Returns:
      Loss of each example, float32 [batch].

    Source: Ahn et al. 2021, "SS-IL: Separated Softmax for Incremental Learning".
    """
    scores = _add_prior(_rows("logits", logits), log_prior)
    is_label = _one_hot(labels, scores)
    old = _per_class("old", old, scores)
    label_is_old = (is_label & old).any(axis=-1, keepdims=True)
    scores = jnp.where(old == label_is_old, scores, -jnp.inf)
    return _nan_unless(is_label.any(axis=-1), _logsumexp(scores) - _pick(scores, is_label))


def binary_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, seen: ArrayLike | None = None
) -> jax.Array:
    """Compute the one-vs-rest cross-entropy: -log s(z_y) - sum_{j != y} log(1 - s(z_j)), s sigmoid.

    Args:
      logits: unnormalised scores z, [batch, C].
      labels: class of each example, [batch]; one outside 0 to C - 1 has loss NaN.
      seen: mask of the classes to sum over, bool [C] or [batch, C]; None means all.

    Returns:
      Loss of each example, float32 [batch].

    Source: Rebuffi et al. 2017, "iCaRL: Incremental Classifier and Representation Learning",
    classification term of Algorithm 3.
    """
    logits = _rows("logits", logits)
    is_label = _one_hot(labels, logits)
    targets = is_label.astype(jnp.float32)
    loss = _sigmoid_cross_entropy(logits, targets, _classes("seen", seen, logits))
    return _nan_unless(is_label.any(axis=-1), loss)


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
    logits = _rows("logits", logits)
    teacher = jax.nn.sigmoid(_numbers("teacher_logits", teacher_logits, logits.shape))
    teacher = jax.lax.stop_gradient(teacher)
    return _sigmoid_cross_entropy(logits, teacher, _classes("where", where, logits))


def distillation(
    logits: ArrayLike,
    teacher_logits: ArrayLike,
    *,
    temperature: float | jax.Array = 2.0,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Compute the distillation loss: T^2 KL(softmax(t / T) || softmax(z / T)).

    The gradient of the divergence falls with 1 / T^2 at high temperatures; T^2 makes up for it.

    Args:
      logits: the student's unnormalised scores z, [batch, C], without any prior.
      teacher_logits: the teacher's t, [batch, C].
      temperature: T, scalar.
      where: mask of the classes both softmaxes run over, bool [C] or [batch, C]; None means all.
        An example without any class in the mask has loss 0 and gradient 0.

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
    logits = _rows("logits", logits)
    teacher_logits = _numbers("teacher_logits", teacher_logits, logits.shape)
    temperature = _numbers("temperature", temperature, ())
    classes = _classes("where", where, logits)

    def log_softmax(logits: jax.Array) -> jax.Array:
        scores = logits / temperature
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

    The number of tasks is not a shape, so a new task compiles nothing anew.

    Args:
      logits: the student's unnormalised scores, [batch, C], without any prior.
      teacher_logits: the teacher's, [batch, C].
      task_of_class: task that brings each class, int [C], 0 to C - 1; free where `old` is false.
        A task outside that range makes every loss NaN.
      old: mask of the classes of earlier tasks, bool [C].
      temperature: T, scalar.

    Returns:
      Loss of each example, float32 [batch]; 0 while no class is old.

    Source: Ahn et al. 2021, "SS-IL: Separated Softmax for Incremental Learning" (task-wise
    knowledge distillation); Castro et al. 2018, "End-to-End Incremental Learning" (EEIL).
    """
    logits = _rows("logits", logits)
    teacher_logits = _numbers("teacher_logits", teacher_logits, logits.shape)
    temperature = _numbers("temperature", temperature, ())
    num_classes = logits.shape[-1]
    task = _array("task_of_class", task_of_class, (jnp.integer,), (num_classes,))
    is_old = _mask("old", old, (num_classes,))
    # The classes that are not old are a separate group, -1.
    group = jnp.where(is_old, task.astype(jnp.int32), -1)
    together = (group[:, None] == group[None]).astype(jnp.float32)
    num_tasks = jnp.clip(group.max() + 1, 0, num_classes)
    group, classes = _leading_axes(group, logits.ndim), _leading_axes(is_old, logits.ndim)

    def highest_of_task(scores: jax.Array) -> jax.Array:
        def add_task(number: jax.Array, peak: jax.Array) -> jax.Array:
            members = classes & (group == number)
            highest = jnp.where(members, scores, -jnp.inf).max(axis=-1, keepdims=True)
            return jnp.where(members, highest, peak)

        # An old class whose task is out of range keeps the NaN.
        start = jnp.where(classes, jnp.nan, jnp.zeros_like(scores))
        return jax.lax.fori_loop(0, num_tasks, add_task, start)

    def log_softmax(logits: jax.Array) -> jax.Array:
        scores = jnp.where(classes, logits / temperature, 0.0)
        peak = highest_of_task(jax.lax.stop_gradient(scores))
        # Sums by a matrix of ones and zeros, in full precision: they need no gather or scatter,
        # which an array sharded over an Explicit axis refuses, and come in a fixed order.
        total = jnp.matmul(jnp.exp(scores - peak), together, precision="highest")
        return scores - peak - jnp.log(total)

    teacher = jax.lax.stop_gradient(log_softmax(teacher_logits))
    return temperature**2 * _kl_divergence(teacher, log_softmax(logits), classes)


def less_forget(features: ArrayLike, teacher_features: ArrayLike) -> jax.Array:
    """Compute the less-forget loss: one minus the cosine to the teacher's features.

    Args:
      features: the student's features, [batch, dim]. A zero vector has cosine 0 with everything.
      teacher_features: the teacher's, [batch, dim].

    Returns:
      Loss of each example, 0 to 2, float32 [batch].

    Source: Hou et al. 2019, "Learning a Unified Classifier Incrementally via Rebalancing" (LUCIR),
    Eq. 6. The published code of Douillard et al. 2020, "PODNet", uses it as POD-flat.
    """
    features = _rows("features", features)
    teacher = _normalise(_numbers("teacher_features", teacher_features, features.shape))
    return 1.0 - jnp.sum(_normalise(features) * jax.lax.stop_gradient(teacher), axis=-1)


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

    The loss is the mean of max(0, margin - c_y + c_i) over the k highest new-class cosines c_i, or
    over all new classes where there are fewer than k. The published code takes this mean, where the
    paper has a sum. An example of a new class has loss 0. To take the mean over the old examples,
    as the paper does, divide the batch's sum by their number.

    Args:
      cosines: cosine of the features to each class vector, before any scale or prior, [batch, C].
      labels: class of each example, [batch]; one outside 0 to C - 1 has loss NaN.
      old: mask of the classes of earlier tasks, bool [C].
      k: how many new classes compete, 1 or more; an int, static under `jit`.
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
    cosines = _rows("cosines", cosines)
    if k < 1:
        raise ValueError(f"k is {k}; want 1 or more")
    k = min(k, cosines.shape[-1])
    is_label = _one_hot(labels, cosines)
    old = _per_class("old", old, cosines)
    new = ~old if seen is None else ~old & _per_class("seen", seen, cosines)
    rivals, _ = jax.lax.top_k(jnp.where(new, cosines, -jnp.inf), k)
    # Fewer than k new classes leave -inf among the rivals: no violation, and not counted.
    at_label = _pick(cosines, is_label)[..., None]
    violations = jax.nn.relu(_numbers("margin", margin, ()) - at_label + rivals)
    mean = violations.sum(axis=-1) / jnp.clip(new.sum(), 1, k).astype(jnp.float32)
    loss = jnp.where((is_label & old).any(axis=-1), mean, 0.0)
    return _nan_unless(is_label.any(axis=-1), loss)


def pod_spatial(maps: Sequence[ArrayLike], teacher_maps: Sequence[ArrayLike]) -> jax.Array:
    """Compute the POD-spatial distance between the student's and the teacher's feature maps.

    Each map is squared, then summed over its height and, apart, over its width. The two sums are
    joined and L2-normalised. The loss is the L2 distance of the student's from the teacher's,
    averaged over the stages.

    Args:
      maps: the student's feature maps, a list or tuple with one [batch, height, width, channels]
        array per stage.
      teacher_maps: the teacher's, of the same shapes.

    Returns:
      Loss of each example, 0 to sqrt(2), float32 [batch]. Where student and teacher agree up to
      rounding (1e-6), as in the first step from a copy, both the loss and its gradient are 0.

    Source: Douillard et al. 2020, "PODNet: Pooled Outputs Distillation for Small-Tasks Incremental
    Learning".
    """

    def pool(map_: jax.Array) -> jax.Array:
        sums = [jnp.square(map_).sum(axis=axis) for axis in (-3, -2)]
        return jnp.concatenate([x.reshape(*x.shape[:-2], -1) for x in sums], axis=-1)

    return _distances_of_maps(maps, teacher_maps, pool)


def pod_pixel(
    maps: Sequence[ArrayLike],
    teacher_maps: Sequence[ArrayLike],
    importance: Sequence[ArrayLike] | None = None,
) -> jax.Array:
    """Compute the distance between feature maps channel by channel.

    Each channel of a map is squared and L2-normalised over its pixels. The loss is the L2 distance
    of the student's from the teacher's, averaged over the channels, then over the stages.

    Args:
      maps: the student's feature maps, a list or tuple with one [batch, height, width, channels]
        array per stage.
      teacher_maps: the teacher's, of the same shapes.
      importance: a factor for each channel of each map, a list of [channels]; None for 1.

    Returns:
      Loss of each example, float32 [batch]; 0 to sqrt(2) without `importance`. Where student
      and teacher agree up to rounding (1e-6), both the loss and its gradient are 0.

    Source: Kang et al. 2022, "Class-Incremental Learning by Knowledge Distillation with Adaptive
    Feature Consolidation", as in its code.
    """

    def pool(map_: jax.Array) -> jax.Array:
        channels = jnp.moveaxis(jnp.square(map_), -1, -3)
        return channels.reshape(*channels.shape[:-2], -1)

    return _distances_of_maps(maps, teacher_maps, pool, importance)


def _distances_of_maps(
    maps: Sequence[ArrayLike],
    teacher_maps: Sequence[ArrayLike],
    pool: Callable[[jax.Array], jax.Array],
    factors: Sequence[ArrayLike] | None = None,
) -> jax.Array:
    """Average over the stages the L2 distances of pooled and normalised maps, [batch].

    Args:
      maps: of the student.
      teacher_maps: of the teacher.
      pool: makes vectors of a map, [batch, ..., K]; the distance is the mean over all but the
        first and the last axis.
      factors: of the distances of each stage, [K']; None for 1.
    """
    for name, stages in [("maps", maps), ("teacher_maps", teacher_maps)]:
        if not isinstance(stages, Sequence):
            kind = type(stages).__name__
            raise TypeError(f"{name} is of type {kind}; want a list with one array per stage")
    if not 0 < len(maps) == len(teacher_maps):
        raise ValueError(
            f"maps has {len(maps)} stages and teacher_maps has {len(teacher_maps)}; "
            "want as many of one as of the other, at least 1"
        )

    def distance(stage: int) -> jax.Array:
        map_ = _numbers(f"maps[{stage}]", maps[stage])
        if map_.ndim < 3:
            wanted = "(batch, height, width, channels)"
            raise ValueError(f"maps[{stage}] has shape {map_.shape}; want {wanted}")
        teacher_map = _numbers(f"teacher_maps[{stage}]", teacher_maps[stage], map_.shape)
        teacher = jax.lax.stop_gradient(_normalise(pool(teacher_map)))
        square = jnp.square(_normalise(pool(map_)) - teacher).sum(axis=-1)
        # At 0 the root has no slope, and close to it only that of the rounding, at full size.
        apart = square > 1e-12
        root = jnp.where(apart, jnp.sqrt(jnp.where(apart, square, 1.0)), 0.0)
        if factors is not None:
            each = _numbers(f"importance[{stage}]", factors[stage], root.shape[-1:])
            root = root * each.reshape(*[1] * (root.ndim - 1), -1)
        return root.mean(axis=tuple(range(map_.ndim - 3, root.ndim)))

    return jnp.stack([distance(stage) for stage in range(len(maps))]).mean(axis=0)


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
      labels: class of each example, [batch]; one outside 0 to C - 1 has loss NaN.
      scale: factor of the similarities, scalar, may be learned.
      margin: taken off the label's similarity, scalar.
      log_prior: added to the scaled similarities, [C] or [batch, C]; -inf removes a class.
      exclude_positive: leave the label out of the sum, as NCA does. Otherwise the loss is the
        cross-entropy of z.
      hinge: replace negative values by 0, as the paper's equation 8 does.
      reference_quirks: compute from the similarities what the published code computes from its
        own. It takes the margin off every class, where it cancels, and then the row's highest score
        off every score, so that the label left out still counts exp(0) in the sum. That is the same
        as `max_j z_j` in the label's place. The head computes the similarities: the published code
        takes the negative squared distance of unit vectors, 2 cos - 2, also in the softmax over a
        class's proxies. The -2 cancels in this loss, the factor 2 does not.

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
    similarities = _rows("similarities", similarities)
    scale, margin = _numbers("scale", scale, ()), _numbers("margin", margin, ())
    scores = _add_prior(scale * similarities, log_prior)
    is_label = _one_hot(labels, scores)
    if not reference_quirks:
        scores = jnp.where(is_label, scores - scale * margin, scores)
    rivals = scores
    if exclude_positive:
        left_out = scores.max(axis=-1, keepdims=True) if reference_quirks else -jnp.inf
        rivals = jnp.where(is_label, left_out, scores)
    loss = _logsumexp(rivals) - _pick(scores, is_label)
    loss = jnp.where(jnp.isneginf(rivals).all(axis=-1), 0.0, loss)
    return _nan_unless(is_label.any(axis=-1), jnp.maximum(loss, 0.0) if hinge else loss)


def _array(name: str, x: ArrayLike, kinds: tuple[type, ...], *shapes: tuple[int, ...]) -> jax.Array:
    """Make an array of the argument `name`; refuse other dtypes and, where given, other shapes."""
    x = jnp.asarray(x)
    if not any(jnp.issubdtype(x.dtype, kind) for kind in kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"{name} has dtype {x.dtype}; want {wanted}")
    if shapes and x.shape not in shapes:
        raise ValueError(f"{name} has shape {x.shape}; want {' or '.join(map(str, shapes))}")
    return x


def _numbers(name: str, x: ArrayLike, *shapes: tuple[int, ...]) -> jax.Array:
    """Check an argument of numbers, and make it float32."""
    return _array(name, x, (jnp.integer, jnp.floating), *shapes).astype(jnp.float32)


def _rows(name: str, x: ArrayLike) -> jax.Array:
    """Check the student's argument, [batch, ...], and make it float32. One row alone is valid."""
    rows = _numbers(name, x)
    if not rows.ndim:
        raise ValueError(f"{name} has shape (); want one row per example")
    return rows


def _mask(name: str, x: ArrayLike, *shapes: tuple[int, ...]) -> jax.Array:
    return _array(name, x, (jnp.bool,), *shapes)


def _leading_axes(x: jax.Array, ndim: int) -> jax.Array:
    """Add leading axes of length 1, up to `ndim` axes."""
    return x.reshape((1,) * (ndim - x.ndim) + x.shape)


def _per_class(name: str, x: ArrayLike, scores: jax.Array) -> jax.Array:
    """Check a mask over the classes, [C], and give it the rank of the scores, [1, C]."""
    return _leading_axes(_mask(name, x, scores.shape[-1:]), scores.ndim)


def _classes(name: str, where: ArrayLike | None, scores: jax.Array) -> jax.Array:
    """Check a mask of the classes to use, [C] or [batch, C], and give it the rank of the scores."""
    everything = jnp.ones(scores.shape[-1:], bool)
    mask = everything if where is None else _mask(name, where, scores.shape[-1:], scores.shape)
    return _leading_axes(mask, scores.ndim)


def _one_hot(labels: ArrayLike, scores: jax.Array) -> jax.Array:
    """Check the labels and mark each example's class: [batch] to bool [batch, C].

    A label that is no class marks none. Losses select by this mask and not by index: a gather wraps
    or clamps such labels, and is refused where the batch is sharded over an Explicit axis.
    """
    labels = _array("labels", labels, (jnp.integer, jnp.floating), scores.shape[:-1])
    num_classes, dtype = scores.shape[-1], jnp.int32
    if jnp.issubdtype(labels.dtype, jnp.floating):
        dtype = jnp.float32
        if num_classes > 2 ** (jnp.finfo(labels.dtype).nmant + 1) + 1:
            raise TypeError(
                f"labels has dtype {labels.dtype}, too coarse for {num_classes} classes"
            )
    classes = jnp.arange(num_classes, dtype=dtype)
    return labels.astype(dtype)[..., None] == _leading_axes(classes, scores.ndim)


def _pick(scores: jax.Array, is_label: jax.Array) -> jax.Array:
    """Pick each example's score at its label: [batch, C] to [batch]; 0 where there is no label."""
    return jnp.sum(jnp.where(is_label, scores, 0.0), axis=-1)


def _nan_unless(valid: jax.Array, loss: jax.Array) -> jax.Array:
    """Multiply the loss by NaN where the input is not valid, so that its gradient is NaN too."""
    return loss * jnp.where(valid, 1.0, jnp.nan)


def _add_prior(scores: jax.Array, log_prior: ArrayLike | None) -> jax.Array:
    """Add the log-prior; a prior of -inf wins over any logit, even an infinite or NaN one."""
    if log_prior is None:
        return scores
    prior = _numbers("log_prior", log_prior, scores.shape[-1:], scores.shape)
    prior = _leading_axes(prior, scores.ndim)
    return jnp.where(jnp.isneginf(prior), -jnp.inf, scores + prior)


def _logsumexp(scores: jax.Array) -> jax.Array:
    """Compute log sum_j exp(z_j), [batch]; 0, with gradient 0, where every score is -inf."""
    empty = jnp.isneginf(scores).all(axis=-1, keepdims=True)
    total = jax.nn.logsumexp(jnp.where(empty, 0.0, scores), axis=-1)
    return jnp.where(empty[..., 0], 0.0, total)


def _kl_divergence(log_p: jax.Array, log_q: jax.Array, where: jax.Array) -> jax.Array:
    """Compute sum_j p_j (log p_j - log q_j) over the classes in `where`, [batch]."""
    # Set to 0 before the product: outside `where` neither is a log-probability, and a class that
    # p leaves out adds nothing, whatever q says of it.
    counts = where & ~jnp.isneginf(log_p)
    gap = jnp.where(counts, log_p, 0.0) - jnp.where(counts, log_q, 0.0)
    return jnp.sum(jnp.where(counts, jnp.exp(log_p), 0.0) * gap, axis=-1)


def _sigmoid_cross_entropy(logits: jax.Array, targets: jax.Array, where: jax.Array) -> jax.Array:
    """Sum the binary cross-entropies over the classes in `where`, [batch]."""
    logits, targets = jnp.where(where, logits, 0.0), jnp.where(where, targets, 0.0)
    # selected, not multiplied by 0: at an infinite logit one of the two is infinite
    positive = jnp.where(targets > 0, targets * jax.nn.softplus(-logits), 0.0)
    negative = jnp.where(targets < 1, (1.0 - targets) * jax.nn.softplus(logits), 0.0)
    return jnp.sum(jnp.where(where, positive + negative, 0.0), axis=-1)


def _normalise(x: jax.Array) -> jax.Array:
    """Scale to L2 norm 1 along the last axis; a vector shorter than 1e-12 is left as it is."""
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.where(square > 1e-24, square, 1.0))
