"""A network of two convolutions and the heads, with BatchNorm written out."""

from typing import NamedTuple

import numpy as np

from reference.tape import Var, exp, log, pad, var

Arrays = dict[str, np.ndarray]  # by path, such as "head/weight"
Params = dict[str, Var]


class Outputs(NamedTuple):
    """What a network makes of a batch; `scores` are those before the learned scale."""

    features: Var
    maps: list[Var]
    scores: Var
    scale: Var

    @property
    def logits(self) -> Var:
        return self.scale * self.scores

    def rows(self, rows: np.ndarray) -> "Outputs":
        """Keep some samples of the batch."""
        maps = [one[rows] for one in self.maps]
        return Outputs(self.features[rows], maps, self.scores[rows], self.scale)


def network(
    params: Params, stats: Arrays, images: np.ndarray, *, head: str, batch_statistics: bool
) -> tuple[Outputs, Arrays]:
    """Look at images; return the moved running statistics too.

    The activation is the softplus: at a kink, rounding alone would decide a gradient.
    """
    x, maps, moved = var(images), [], dict(stats)
    for layer, stride in ((0, 1), (1, 2)):
        x = convolution(x, params[f"backbone/Conv_{layer}/kernel"], stride)
        norm = f"backbone/BatchNorm_{layer}/"
        mean, variance = var(stats[norm + "mean"]), var(stats[norm + "var"])
        if batch_statistics:
            mean = x.mean((0, 1, 2))
            variance = ((x - mean) ** 2).mean((0, 1, 2))
            moved[norm + "mean"] = 0.9 * stats[norm + "mean"] + 0.1 * mean.value
            moved[norm + "var"] = 0.9 * stats[norm + "var"] + 0.1 * variance.value
        x = (x - mean) / (variance + 1e-5) ** 0.5 * params[norm + "scale"] + params[norm + "bias"]
        maps.append(x)
        # cosine heads have no activation after the last sum
        if layer == 0 or head == "linear":
            x = log(1 + exp(x))
    features = x.mean((1, 2))
    return Outputs(features, maps, *classify(params, features, head)), moved


def convolution(x: Var, kernel: Var, stride: int) -> Var:
    """Convolve with a 3x3 kernel and one pixel of zeros on each side, tap by tap."""
    height, width = (-(-size // stride) for size in x.shape[1:3])
    padded, total = pad(x, 1), var(0.0)
    for dy in range(3):
        for dx in range(3):
            rows = slice(dy, dy + stride * (height - 1) + 1, stride)
            columns = slice(dx, dx + stride * (width - 1) + 1, stride)
            total = total + padded[:, rows, columns] @ kernel[dy, dx]
    return total


def classify(params: Params, features: Var, head: str) -> tuple[Var, Var]:
    """Score features: W f + b; cosines (LUCIR, equation 4); or PODNet's local similarities."""
    weight = params["head/weight"]
    if head == "linear":
        return features @ weight.T + params["head/bias"], var(1.0)
    if head == "cosine":
        return unit(features) @ unit(weight).T, params["head/scale"]
    classes, proxies, dim = weight.shape
    cosines = unit(features) @ unit(weight).reshape(classes * proxies, dim).T
    similar = cosines.reshape(len(features), classes, proxies)
    if head == "lsc_distance":  # the published code: -|f - w|^2, where section 3.2 has the cosine
        similar = 2 * similar - 2
    share = exp(similar) / exp(similar).sum(-1, keepdims=True)
    return (share * similar).sum(-1), params["head/scale"]


def unit(vectors: Var) -> Var:
    """Divide by the length."""
    return vectors / (vectors**2).sum(-1, keepdims=True) ** 0.5
