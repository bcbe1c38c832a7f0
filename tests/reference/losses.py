"""The losses as the papers, or where they differ the published code, define them.

Each takes rows of samples and returns one number for each. `labels` are plain integers and `old` a
plain count: the old classes are the columns below `old`, the new ones the others.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from reference.network import Outputs, unit
from reference.tape import Var, concatenate, exp, log, relu, stack, var

Array = np.ndarray


def criterion(
    name: str,
    options: dict[str, Any],
    out: Outputs,
    labels: Array,
    counts: Array,
    old: int,
    learned: Array | float = 1.0,
) -> Var:
    """`config.loss` by name; `counts` [seen] are images, `learned` a factor of the prior."""
    seen = len(counts)
    z = out.logits[:, :seen]
    if name == "cross_entropy":
        return cross_entropy(z, labels)
    if name in ("balanced_softmax", "meta_balanced_softmax"):
        return cross_entropy(z, labels, balanced(counts, options, old) * learned)
    if name == "separated_softmax":
        return separated(z, labels, old)
    if name == "binary_cross_entropy":
        return binary(z, var(np.eye(seen)[labels]))
    assert name in ("nca", "balanced_nca")
    prior = balanced(counts, options, old) if name == "balanced_nca" else np.ones(seen)
    return nca(out.scores[:, :seen], labels, out.scale, options, prior)


def softmax(z: Var, counts: Array | float = 1.0) -> Var:
    """n_j exp(z_j) / sum_i n_i exp(z_i) (Ren et al. 2020, equation 3)."""
    weighted = counts * exp(z)
    return weighted / weighted.sum(-1, keepdims=True)


def cross_entropy(z: Var, labels: Array, counts: Array | float = 1.0) -> Var:
    """-log p_y."""
    return -log(at(softmax(z, counts), labels))


def at(values: Var, labels: Array) -> Var:
    """Take each row's value at its label."""
    return values[np.arange(len(labels)), labels]


def balanced(counts: Array, options: dict[str, Any], old: int) -> Array:
    """n^tau, n of a class or the mean of old or of new ones, and at least a part of a new one's."""
    raised = np.array(counts, float)
    if options["prior"] == "task":
        raised[:old], raised[old:] = counts[:old].mean(), counts[old:].mean()
    raised[:old] = np.maximum(raised[:old], options["old_prior"] * counts[old:].mean())
    return raised ** options["tau"]


def separated(z: Var, labels: Array, old: int) -> Var:
    """SS-IL, equation 3: exemplars among the old classes, new images among the new ones."""
    of_samples = []
    for sample, label in enumerate(labels):
        own = slice(None, old) if label < old else slice(old, None)
        of_samples.append(-log(exp(z[sample, label]) / exp(z[sample, own]).sum()))
    return stack(of_samples)


def binary(z: Var, targets: Var) -> Var:
    """Both sums of iCaRL's algorithm 3: -[q log g + (1 - q) log(1 - g)], g the sigmoid."""
    g = sigmoid(z)
    return -(targets * log(g) + (1 - targets) * log(1 - g)).sum(-1)


def sigmoid(z: Var) -> Var:
    return 1 / (1 + exp(-z))


def nca(similarities: Var, labels: Array, scale: Var, options: dict[str, Any], prior: Array) -> Var:
    """PODNet's classification: equation 8, or the published code's `nca` line by line."""
    is_label = np.eye(similarities.shape[1])[labels]
    margin, log_prior = options["margin"], np.log(prior)
    if options["reference_quirks"]:
        z = scale * (similarities - margin) + log_prior
        z = z - at(z, z.value.argmax(1)).reshape(-1, 1)
        numerator = at(z, labels)
        denominator = z - z * is_label  # the label's place counts exp(0)
        return relu(log(exp(denominator).sum(1)) - numerator)
    z = scale * (similarities - margin * is_label) + log_prior
    return relu(-log(exp(at(z, labels)) / (exp(z) * (1 - is_label)).sum(1)))


def kl(student: Var, teacher: Var, temperature: float) -> Var:
    """KL(softmax(t / T) || softmax(z / T)), without T^2."""
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    return (p * log(p / q)).sum(-1)


def taskwise(student: Var, teacher: Var, tasks: Sequence[range], temperature: float) -> Var:
    """T^2 KL among the classes of each old task, summed over the tasks (SS-IL, EEIL)."""
    total = var(0.0)
    for task in tasks:
        own = slice(task.start, task.stop)
        total = total + temperature**2 * kl(student[:, own], teacher[:, own], temperature)
    return total


def less_forget(features: Var, teacher: Var) -> Var:
    """LUCIR, equation 6; also PODNet's POD-flat."""
    return 1 - (unit(features) * unit(teacher)).sum(-1)


def ranking(cosines: Var, labels: Array, old: int, seen: int, k: int, margin: float) -> Var:
    """LUCIR, equation 8: the mean over exemplars x K of max(0, m - cos_y + cos of a new class)."""
    violations = []
    for sample, label in enumerate(labels):
        if label < old:
            nearest = np.argsort(-cosines.value[sample, old:seen])[:k] + old
            violations.append(relu(margin - cosines[sample, label] + cosines[sample, nearest]))
    return concatenate(violations, 0).mean()


def pod_pixel(maps: Sequence[Var], teacher_maps: Sequence[Var], importance: Sequence[Array]) -> Var:
    """AFC's code, "pixel": each channel's squares, of unit length, times its importance."""
    total = var(0.0)
    for own, other, factors in zip(maps, teacher_maps, importance, strict=True):
        count, channels = len(own), own.shape[-1]
        for channel in range(channels):
            a, b = (unit((m[..., channel] ** 2).reshape(count, -1)) for m in (own, other))
            total = total + factors[channel] * ((a - b) ** 2).sum(-1) ** 0.5 / channels
    return total / len(maps)


def pod_spatial(maps: Sequence[Var], teacher_maps: Sequence[Var]) -> Var:
    """PODNet, equations 3 to 5, as its code pools: squares, sums over height and over width."""

    def pooled(one: Var) -> Var:
        square, n = one**2, len(one)
        return unit(concatenate([square.sum(a).reshape(n, -1) for a in (1, 2)], 1))

    total = var(0.0)
    for own, other in zip(maps, teacher_maps, strict=True):
        total = total + ((pooled(own) - pooled(other)) ** 2).sum(-1) ** 0.5
    return total / len(maps)
