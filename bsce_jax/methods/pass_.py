"""PASS: prototype augmentation and rotated images as classes, for learning without memory."""

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
from bsce_jax.models import Classifier, Outputs
from bsce_jax.models.heads import LinearHead


@METHODS.register("pass")
@dataclasses.dataclass(frozen=True)
class PASS(Method):
    """PASS (Zhu et al. 2021): prototype augmentation and self-supervision, without memory.

    Each image is trained on in its four quarter turns, and a class turned by 90, 180 or 270 degrees
    is a class of its own. An auxiliary head scores these; predictions are among the others.

    The prototype of an old class is its mean feature. Prototypes with added noise replace the
    features of old classes in the training of the heads, and distillation keeps the features in
    place. Prototypes are drawn equally from all old classes, so their loss is the plain
    cross-entropy.

    The published code divides the logits by a temperature of 0.1 in both losses, and distils by the
    norm over a whole batch; here there is no temperature, and the mean of the images' norms.
    """

    memory: ClassVar[bool] = False
    teacher: ClassVar[bool] = True
    prototype: float = field(10.0, "weight of the classification of prototypes", least=0.0)
    distillation: float = field(
        10.0, "weight of the L2 distance to the previous model's features", least=0.0
    )

    def network(self, base: Classifier, task: int, tasks: int) -> Classifier:
        return base.clone(auxiliary=LinearHead(3 * base.head.num_classes))

    def stages(self, main: Stage, task: int) -> tuple[Stage, ...]:
        trainable = ("backbone", "head", "auxiliary")
        return (dataclasses.replace(main, turns=True, trainable=trainable),)

    def init_extra(self, params: Params, num_classes: int) -> dict[str, Any]:
        dim = params["head"]["weight"].shape[-1]
        return {"prototypes": jnp.zeros((num_classes, dim)), "radius": jnp.zeros(())}

    def classification(self, step: Step) -> Terms:
        assert step.turns is not None
        turns, classes = step.turns, len(step.task.old)
        prior, old = with_turned(step.task.log_prior), with_turned(step.task.old)
        outputs = all_scores(step.student)

        def loss(labels: jax.Array) -> jax.Array:
            turned = jnp.where(turns == 0, labels, classes + 3 * labels + turns - 1)
            return step.criterion(outputs, turned, prior, old)

        return {"classification": step.mean(step.of_both(loss))}

    def terms(self, step: Step) -> Terms:
        task, extra = step.task, step.extra
        key_class, key_noise = jax.random.split(step.key)
        old = jnp.where(task.old, 0.0, -jnp.inf)
        labels = jax.random.categorical(key_class, old, shape=step.labels.shape)
        prototypes = extra["prototypes"][labels]
        noise = extra["radius"] * jax.random.normal(key_noise, prototypes.shape)
        outputs = all_scores(step.classify(prototypes + noise))
        seen = jnp.where(with_turned(task.seen), 0.0, -jnp.inf)
        replayed = losses.softmax_cross_entropy(outputs.logits, labels, seen)
        moved = step.student.features - jax.lax.stop_gradient(step.teacher.features)
        # the root has no derivative at 0, the distance in the first step of a task
        distance = jnp.sqrt(jnp.sum(jnp.square(moved), axis=-1) + 1e-12)
        return {
            **self.classification(step),
            "prototype": self.prototype * step.mean(replayed),
            "distillation": self.distillation * step.mean(distance),
        }

    def begin_task(self, model: ModelState, task: TaskInfo, probe: Probe) -> ModelState:
        """Start the vectors of turned new classes afresh; weight decay has shrunk them.

        Those of the first task are initial ones, or those of another run's first task.
        """
        if task.old == 0:
            return model
        rows = slice(3 * task.old, 3 * task.seen)
        fresh = probe.initial.params["auxiliary"]
        auxiliary = {
            name: values.at[rows].set(fresh[name][rows])
            for name, values in model.params["auxiliary"].items()
        }
        return dataclasses.replace(model, params={**model.params, "auxiliary": auxiliary})

    def end_training(self, model: ModelState, task: TaskInfo, probe: Probe) -> ModelState:
        """Store the mean feature of each new class, and in the first task the radius (eq. 6)."""
        means, variances = [], []
        for c in task.new:
            features = probe.features(model, task.records(c))
            means.append(features.mean(axis=0))
            variances.append(features.var(axis=0).mean())
        prototypes = model.extra["prototypes"].at[task.old : task.seen].set(np.stack(means))
        radius = model.extra["radius"] if task.old else jnp.sqrt(jnp.mean(jnp.stack(variances)))
        return dataclasses.replace(model, extra={"prototypes": prototypes, "radius": radius})


def all_scores(outputs: Outputs) -> Outputs:
    """Put the scores of the turned classes behind the others.

    Args:
      outputs: of a linear head for C classes and an auxiliary one for 3 C, where class c turned k
        times is 3 c + k - 1.

    Returns:
      With scores and logits [batch, 4 C].
    """
    assert outputs.auxiliary is not None
    logits = jnp.concatenate([outputs.logits, outputs.auxiliary], axis=1)
    return dataclasses.replace(outputs, scores=logits, logits=logits)


def with_turned(values: jax.Array) -> jax.Array:
    """Repeat the values of the classes, [C], for the turned ones: [4 C]."""
    return jnp.concatenate([values, jnp.repeat(values, 3)])
