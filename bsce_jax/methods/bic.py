"""BiC: large-scale incremental learning with a bias correction layer."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from bsce_jax import losses
from bsce_jax.fields import field
from bsce_jax.methods import (
    METHODS,
    Method,
    ModelState,
    Params,
    Probe,
    Stage,
    Step,
    TaskInfo,
    Terms,
)

PRIOR_STD = 10.0  # of alpha - 1 and of beta


@METHODS.register("bic")
@dataclasses.dataclass(frozen=True)
class BiC(Method):
    """Bias Correction (Wu et al. 2019): alpha and beta correct the logits of each task.

    Part of the exemplars, and as many images of each new class, are held out. After training, the
    logits of the new classes become alpha z + beta, fitted on the held-out images. The losses use
    the corrected logits of old classes, for student and teacher.

    The weights of classification and distillation are 1 - rho and rho, rho = old / all classes. The
    default factor of 0.25 with T = 2 is the plain KL of the published code.
    """

    teacher: ClassVar[bool] = True
    distillation: float = field(0.25, "factor of the distillation T^2 KL", least=0.0)
    temperature: float = field(2.0, "T, of the distillation", above=0.0)
    validation: float = field(0.1, "fraction of the exemplars held out", least=0.0, below=1.0)

    def stages(self, main: Stage, task: int) -> tuple[Stage, ...]:
        return (dataclasses.replace(main, holdout=self.validation),)

    def init_extra(self, params: Params, num_classes: int) -> dict[str, Any]:
        return {"alpha": jnp.ones(num_classes), "beta": jnp.zeros(num_classes)}

    def terms(self, step: Step) -> Terms:
        student = dataclasses.replace(
            step.student, logits=_corrected(step.student.logits, step.extra)
        )
        teacher = _corrected(step.teacher.logits, step.previous.extra)
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
        logits = _corrected(logits, model.extra)[:, : task.seen]
        new = np.arange(task.seen) >= task.old
        alpha, beta = fit_bias(np.asarray(logits), task.labels[task.validation], new)
        rows = slice(task.old, task.seen)
        extra = {
            "alpha": model.extra["alpha"].at[rows].set(alpha),
            "beta": model.extra["beta"].at[rows].set(beta),
        }
        return dataclasses.replace(model, extra=extra)

    def predict(self, logits: jax.Array, features: jax.Array, extra: dict[str, Any]) -> jax.Array:
        return _corrected(logits, extra)


def _corrected(logits: jax.Array, extra: dict[str, Any]) -> jax.Array:
    return extra["alpha"][None] * logits + extra["beta"][None]


def fit_bias(logits: np.ndarray, labels: np.ndarray, new: np.ndarray) -> tuple[float, float]:
    """Find the alpha and beta that minimise the cross-entropy of corrected logits (equation 5).

    The problem is convex with two unknowns, so it is solved to convergence instead of by the
    paper's epochs of SGD. Equation 5 has no minimum if the images can be separated, which is
    frequent with few images. A Gaussian prior of standard deviation 10 around (1, 0) keeps alpha
    and beta finite. On synthetic logits of 60 classes the prior changes them by 2 % with 120 images
    and by 0.3 % with 1200.

    Args:
      logits: [n, seen] of held-out images.
      labels: [n] positions.
      new: [seen] bool, the classes whose logits become alpha z + beta.
    """
    # slow to import, which every process would do with the methods
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    logits = np.asarray(logits, np.float64)
    samples = np.arange(len(labels))

    def objective(numbers: np.ndarray) -> tuple[float, np.ndarray]:
        corrected = np.where(new, numbers[0] * logits + numbers[1], logits)
        log_p = log_softmax(corrected, axis=1)
        away = numbers - (1.0, 0.0)
        value = away @ away / (2 * PRIOR_STD**2) - log_p[samples, labels].sum()
        wrong = np.exp(log_p)
        wrong[samples, labels] -= 1
        slope = np.array([(wrong * logits)[:, new].sum(), wrong[:, new].sum()])
        return value, slope + away / PRIOR_STD**2

    alpha, beta = minimize(objective, np.array([1.0, 0.0]), jac=True, method="BFGS").x
    return float(alpha), float(beta)
