"""The learned weight of the old classes: `meta_balanced_softmax`."""

import numpy as np

from reference import losses
from reference.network import Arrays, Outputs, classify, network
from reference.problem import Batch, Model, Problem
from reference.tape import gradient, var

NUDGE = 1e-4  # of w, for the slope of the outer loss


class OldWeight:
    """w, one number or one a class: the prior of an old class is n exp(w). Moved by Adam."""

    def __init__(self, problem: Problem):
        self.problem = problem
        each = problem.loss_options.get("per_class", False)
        self.value = np.zeros(problem.num_classes if each else ())
        self._mean = self._square = np.zeros_like(self.value)
        self._steps = 0

    def factor(self, value: np.ndarray) -> np.ndarray:
        """Compute what the prior of each seen class is multiplied by."""
        factor = np.ones(self.problem.num_classes)
        factor[: self.problem.old] = np.exp(np.broadcast_to(value, factor.shape))[
            : self.problem.old
        ]
        return factor[: self.problem.seen]

    def look_ahead(self, model: Model, batch: Batch, head: str) -> None:
        """Move w down the slope of what the next step of the head leads to (Ren et al. 2020)."""
        slope = np.zeros_like(self.value)
        for place in np.ndindex(self.value.shape):
            nudge = np.zeros_like(self.value)
            nudge[place] = NUDGE
            up, down = (
                self._outer(model, batch, head, self.value + sign * nudge) for sign in (1, -1)
            )
            slope[place] = (up - down) / (2 * NUDGE)
        self._steps += 1
        self._mean = 0.9 * self._mean + 0.1 * slope
        self._square = 0.999 * self._square + 0.001 * slope**2
        mean = self._mean / (1 - 0.9**self._steps)
        root = np.sqrt(self._square / (1 - 0.999**self._steps))
        self.value = self.value - self.problem.loss_options["learning_rate"] * mean / (root + 1e-8)

    def _outer(self, model: Model, batch: Batch, head: str, value: np.ndarray) -> float:
        """One SGD step of the head under w, then the plain CE of a balanced batch."""
        problem = self.problem
        params = {name: var(x) for name, x in model.params.items()}
        own = {name: x for name, x in params.items() if name.startswith("head")}
        out, _ = network(params, model.stats, batch.images, head=head, batch_statistics=True)
        inner = losses.criterion(
            problem.loss,
            problem.loss_options,
            out.rows(batch.real),
            batch.labels[batch.real],
            problem.counts,
            problem.old,
            self.factor(value),
        ).mean()
        slopes: Arrays = gradient(inner, own)
        ahead = {name: own[name] - batch.learning_rate * slopes[name] for name in own}
        assert batch.balanced is not None
        images, labels = batch.balanced
        seen, _ = network(params, model.stats, images, head=head, batch_statistics=False)
        out = Outputs(seen.features, [], *classify(ahead, seen.features, head))
        plain = losses.cross_entropy(out.logits[:, : problem.seen], labels).mean()
        return float(plain.value)
