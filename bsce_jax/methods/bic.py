"""BiC: large-scale incremental learning with a bias correction layer."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize

from bsce_jax import losses
from bsce_jax.methods import register
from bsce_jax.methods.base import Method, ModelState, Params, Probe, Step, TaskInfo


@register("bic")
@dataclasses.dataclass(frozen=True)
class BiC(Method):
    """Bias Correction (Wu et al. 2019): two numbers a task, alpha and beta, for its logits.

    Part of the exemplars, and as many images of each new class, are held out; after training, the
    new classes' logits become alpha z + beta, fitted on them. The losses see the corrected logits
    of old classes, in the student as in the teacher.

    Attributes:
      distillation: factor of the distillation T^2 KL, which also weighs rho = old / all classes.
        0.25 with T = 2 is the plain KL of the published code.
      temperature: T, of the distillation.
      validation: fraction of the exemplars held out.
    """

    teacher: ClassVar[bool] = True
    distillation: float = 0.25
    temperature: float = 2.0
    validation: float = 0.1

    @property
    def holdout(self) -> float:
        return self.validation

    def init_extra(self, params: Params, num_classes: int) -> dict[str, Any]:
        return {"alpha": jnp.ones(num_classes), "beta": jnp.zeros(num_classes)}

    def terms(self, step: Step) -> dict[str, jax.Array]:
        student = dataclasses.replace(
            step.student, logits=self.predict(step.student.logits, step.extra)
        )
        teacher = self.predict(step.teacher.logits, step.previous.extra)
        distillation = losses.distillation(
            student.logits, teacher, temperature=self.temperature, where=step.task.old
        )
        rho = step.task.old_fraction
        return {
            "classification": (1 - rho) * step.classification(student),
            "distillation": self.distillation * rho * step.mean(distillation),
        }

    def end_training(self, model: ModelState, task: TaskInfo, probe: Probe) -> ModelState:
        if not len(task.validation):
            return model
        logits = jnp.asarray(probe.logits(model, task.validation))
        logits = self.predict(logits, model.extra)[:, : task.seen]
        new = np.arange(task.seen) >= task.old
        alpha, beta = fit_bias(logits, task.labels[task.validation], new)
        rows = slice(task.old, task.seen)
        extra = {
            "alpha": model.extra["alpha"].at[rows].set(alpha),
            "beta": model.extra["beta"].at[rows].set(beta),
        }
        return dataclasses.replace(model, extra=extra)

    def predict(self, logits: jax.Array, extra: dict[str, Any]) -> jax.Array:
        return extra["alpha"] * logits + extra["beta"]


def fit_bias(logits: jax.Array, labels: np.ndarray, new: np.ndarray) -> tuple[float, float]:
    """Finds the alpha and beta that minimise the cross-entropy of corrected logits (equation 5).

    The problem is convex with two unknowns, so it is solved to its end instead of by the paper's
    epochs of SGD. A unit Gaussian round (1, 0) keeps the numbers finite where a few images do not
    determine them; among hundreds it weighs nothing.

    Args:
      logits: [n, seen] of held-out images.
      labels: [n] positions.
      new: [seen] bool, the classes whose logits become alpha z + beta.
    """

    @jax.jit
    @jax.value_and_grad
    def objective(numbers: jax.Array) -> jax.Array:
        corrected = jnp.where(new, numbers[0] * logits + numbers[1], logits)
        prior = (jnp.square(numbers[0] - 1) + jnp.square(numbers[1])) / 2
        return (losses.softmax_cross_entropy(corrected, labels).sum() + prior) / len(labels)

    def in_float64(numbers: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = objective(jnp.asarray(numbers, jnp.float32))
        return float(value), np.asarray(gradient, np.float64)

    alpha, beta = minimize(in_float64, np.array([1.0, 0.0]), jac=True, method="BFGS").x
    return float(alpha), float(beta)
