"""A network of two convolutions and the heads, with BatchNorm written out."""

from typing import NamedTuple

import numpy as np

from reference.tape import Var, concatenate, exp, log, pad, var

Arrays = dict[str, np.ndarray]  # by path, such as "head/weight"
Params = dict[str, Var]


class Outputs(NamedTuple):
    """What a network makes of a batch; `scores` are those before the learned scale."""

    features: Var
    maps: list[Var]
    scores: Var
    scale: Var
    auxiliary: Var | None = None  # logits of a second head

    @property
    def logits(self) -> Var:
        return self.scale * self.scores

    def rows(self, rows: np.ndarray) -> "Outputs":
        """Keep some samples of the batch."""
        maps = [one[rows] for one in self.maps]
        auxiliary = None if self.auxiliary is None else self.auxiliary[rows]
        return Outputs(self.features[rows], maps, self.scores[rows], self.scale, auxiliary)


def network(
    params: Params, stats: Arrays, images: np.ndarray, *, head: str, batch_statistics: bool
) -> tuple[Outputs, Arrays]:
    """Look at images; return the moved running statistics too."""
    moved = dict(stats)
    layer = _Layers(params, stats, moved, batch_statistics)
    if "count" in stats:
        return _growing(layer, images), moved
    first, x = layer("backbone", 0, var(images), stride=1)
    # cosine heads have no activation after the last sum
    second, y = layer("backbone", 1, x, stride=2)
    features = (y if head == "linear" else second).mean((1, 2))
    return score(params, features, head)._replace(maps=[first, second]), moved


def joined(parts: list[Outputs]) -> Outputs:
    """Put the samples of parts of a batch one behind the other; there are no maps."""
    first = parts[0]
    if len(parts) == 1:
        return first
    features, scores = (
        concatenate([getattr(part, name) for part in parts], 0) for name in ("features", "scores")
    )
    return Outputs(features, [], scores, first.scale)


class _Layers(NamedTuple):
    """Convolutions with BatchNorm, by path."""

    params: Params
    stats: Arrays
    moved: Arrays
    batch_statistics: bool

    def __call__(self, place: str, number: int, x: Var, stride: int) -> tuple[Var, Var]:
        """Apply one layer; return its output before and after the activation.

        The activation is the softplus: at a kink, rounding alone would decide a gradient.
        """
        x = convolution(x, self.params[f"{place}/Conv_{number}/kernel"], stride)
        norm = f"{place}/BatchNorm_{number}/"
        mean, variance = var(self.stats[norm + "mean"]), var(self.stats[norm + "var"])
        if self.batch_statistics:
            mean = x.mean((0, 1, 2))
            variance = ((x - mean) ** 2).mean((0, 1, 2))
            self.moved[norm + "mean"] = 0.9 * self.stats[norm + "mean"] + 0.1 * mean.value
            self.moved[norm + "var"] = 0.9 * self.stats[norm + "var"] + 0.1 * variance.value
        scale, bias = self.params[norm + "scale"], self.params[norm + "bias"]
        x = (x - mean) / (variance + 1e-5) ** 0.5 * scale + bias
        return x, log(1 + exp(x))


def _growing(layers: _Layers, images: np.ndarray) -> Outputs:
    """Concatenate the features of the frozen branches and of the one in training."""
    params, stats, x = layers.params, layers.stats, var(images)
    first, shared = 0, any(path.startswith("trunk/") for path in params)
    if shared:
        _, x = layers("trunk/network", 0, x, stride=1)
        first = 1

    def branch(layers: _Layers) -> Var:
        y = x
        for number, stride in ((0, 1), (1, 2))[first:]:
            _, y = layers("backbone", number - first, y, stride)
        return y.mean((1, 2))

    count, features = int(stats["count"]), []
    for slot in range(count):
        of_slot = lambda part, slot=slot: {
            "backbone" + path.removeprefix(f"frozen/{part}"): value[slot]
            for path, value in stats.items()
            if path.startswith(f"frozen/{part}")
        }
        frozen = {path: var(value) for path, value in of_slot("params").items()}
        features.append(branch(_Layers(frozen, of_slot("batch_stats"), {}, False)))
    features.append(branch(layers))
    width, joined = features[0].shape[1], var(0.0)
    columns = params["head/weight"].shape[1]
    for number, part in enumerate(features):
        place = np.eye(width, columns, number * width)
        joined = joined + part @ place
    auxiliary = features[-1] @ params["auxiliary/weight"].T + params["auxiliary/bias"]
    return Outputs(joined, [], *classify(params, joined, "linear"), auxiliary)


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


def score(params: Params, features: Var, head: str) -> Outputs:
    """Apply the head, and the auxiliary head of a network that has one."""
    outputs = Outputs(features, [], *classify(params, features, head))
    if "auxiliary/weight" not in params:
        return outputs
    auxiliary = features @ params["auxiliary/weight"].T + params["auxiliary/bias"]
    return outputs._replace(auxiliary=auxiliary)


def unit(vectors: Var) -> Var:
    """Divide by the length."""
    return vectors / (vectors**2).sum(-1, keepdims=True) ** 0.5
