"""FOSTER: a further branch is trained, then both branches are distilled into a single network."""

import dataclasses
from typing import Any

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
from bsce_jax.methods.der import fresh_vectors
from bsce_jax.models import Classifier
from bsce_jax.models.growing import GrowingClassifier, freeze_branch
from bsce_jax.models.heads import LinearHead
from bsce_jax.streams import Purpose, generator


@METHODS.register("foster")
@dataclasses.dataclass(frozen=True)
class FOSTER(Method):
    """FOSTER (Wang et al. 2022): feature boosting, then compression, as in PyCIL's code.

    Boosting trains a copy of the network beside the frozen network. The head scores the features of
    both, an auxiliary head those of the new branch, and the logits of old classes are distilled
    from the frozen network. Compression distils both branches into one network, which starts as the
    frozen one and is the model that the task ends with.

    The logits are divided by class weights, which decrease with the number of images ("logit
    alignment"), unless the loss is balanced. The same kind of weights multiplies the teacher's
    probabilities in the compression, where there is no weight decay.

    PyCIL evaluates and chooses exemplars with both branches, here the compressed network does.
    """

    beta: float = field(0.96, "of the class weights of the logits", least=0.0, below=1.0)
    compression_beta: float = field(
        0.97, "of the class weights of the compression", least=0.0, below=1.0
    )
    distillation: float = field(0.25, "factor of the distillation T^2 KL", least=0.0)
    temperature: float = field(2.0, "T, of both distillations", above=0.0)
    compression_epochs: int = field(
        0, "epochs of the compression, 0 for those of the training", least=0, most=100_000
    )

    def network(self, base: Classifier, task: int, tasks: int) -> Classifier:
        auxiliary = LinearHead(base.head.num_classes)
        head = base.head.clone(branches=2)
        return GrowingClassifier(base.backbone, head, auxiliary, compressed=True)

    def init_extra(self, params: Params, num_classes: int) -> dict[str, Any]:
        width = params["head"]["weight"].shape[1] // 2
        ones = jnp.ones(num_classes)
        return {
            # of the network that is frozen
            "head": {"weight": jnp.zeros((num_classes, width)), "bias": jnp.zeros(num_classes)},
            "weights": {"logits": ones, "compression": ones},
        }

    def stages(self, main: Stage, task: int) -> tuple[Stage, ...]:
        if task == 0:
            alone = dataclasses.replace(main, terms=self.classification)
            return (dataclasses.replace(alone, trainable=("backbone", "head")),)
        boosting = dataclasses.replace(main, trainable=("backbone", "head", "auxiliary"))
        compression = dataclasses.replace(
            main,
            name="compression",
            terms=self.compression_terms,
            epochs=self.compression_epochs or main.epochs,
            warmup=0,
            teacher="start",
            prepare=self.restart,
            weight_decay=False,
        )
        return boosting, compression

    def terms(self, step: Step) -> Terms:
        student, head = step.student, step.extra["head"]
        alone = student.auxiliary
        assert alone is not None
        if not step.criterion.balanced:
            aligned = student.logits / step.extra["weights"]["logits"][None]
            student = dataclasses.replace(student, logits=aligned)
        frozen = student.features[:, : head["weight"].shape[1]]
        earlier = jax.lax.stop_gradient(frozen @ head["weight"].T + head["bias"][None])
        divergence = losses.distillation(
            step.student.logits, earlier, temperature=self.temperature, where=step.task.old
        )
        among = jnp.where(step.task.seen, 0.0, -jnp.inf)
        auxiliary = losses.softmax_cross_entropy(alone, step.labels, among)
        return {
            "classification": step.classification(student),
            "auxiliary": step.mean(auxiliary),
            "distillation": self.distillation * step.mean(divergence),
        }

    def compression_terms(self, step: Step) -> Terms:
        """Distil the weighted probabilities of both branches; no labels are used."""
        # softmax((z + T log w) / T) is w softmax(z / T), normalised
        weights = step.extra["weights"]["compression"]
        balanced = step.teacher.logits + self.temperature * jnp.log(weights)[None]
        divergence = losses.distillation(
            step.student.logits, balanced, temperature=self.temperature, where=step.task.seen
        )
        return {"compression": step.mean(divergence) / self.temperature**2}

    def begin_task(self, model: ModelState, task: TaskInfo, probe: Probe) -> ModelState:
        head = model.params["head"]
        if task.index == 0:
            return _with_one_branch(model, head["weight"], head["bias"])
        width = head["weight"].shape[1] // 2
        rng = generator(task.seed, Purpose.BRANCH, task.index)
        weight = fresh_vectors(rng, *head["weight"].shape)
        weight[: task.old, :width] = np.asarray(head["weight"])[: task.old, :width]
        auxiliary = model.params["auxiliary"]
        params = {
            **model.params,
            "head": {
                "weight": head["weight"].at[:].set(weight),
                "bias": head["bias"].at[task.old :].set(0.0),
            },
            "auxiliary": {
                "weight": auxiliary["weight"]
                .at[:]
                .set(fresh_vectors(rng, *auxiliary["weight"].shape)),
                "bias": auxiliary["bias"].at[:].set(0.0),
            },
        }
        counts = np.bincount(task.labels[task.train], minlength=len(weight))[: task.seen]
        ours = {"logits": self.beta, "compression": self.compression_beta}
        weights = {
            name: model.extra["weights"][name].at[: task.seen].set(class_weights(counts, beta))
            for name, beta in ours.items()
        }
        frozen = {"weight": head["weight"][:, :width], "bias": head["bias"]}
        return ModelState(
            params=params,
            batch_stats=freeze_branch(model.params, model.batch_stats),
            extra={"head": frozen, "weights": weights},
        )

    def restart(self, model: ModelState, task: TaskInfo, probe: Probe) -> ModelState:
        """Make the network that is compressed into: the frozen one, with vectors of new classes."""
        frozen = jax.tree.map(lambda slots: slots[0], model.batch_stats["frozen"])
        rng = generator(task.seed, Purpose.BRANCH, task.index, number=1)
        head = model.extra["head"]
        fresh = fresh_vectors(rng, *head["weight"].shape)
        fresh[: task.old] = np.asarray(head["weight"])[: task.old]
        weight = np.concatenate([fresh, np.zeros_like(fresh)], axis=1)
        stats = {**model.batch_stats, "count": model.batch_stats["count"] - 1}
        if "batch_stats" in frozen:
            stats["backbone"] = frozen["batch_stats"]
        single = dataclasses.replace(
            model, params={**model.params, "backbone": frozen["params"]}, batch_stats=stats
        )
        return _with_one_branch(single, weight, head["bias"].at[task.old :].set(0.0))


def class_weights(counts: np.ndarray, beta: float) -> np.ndarray:
    """Compute weights that decrease with the number of images (Cui et al. 2019, equation 2).

    Args:
      counts: [C] images of each class; 0 counts as 1.
      beta: below 1; 0 weighs all classes alike.

    Returns:
      [C] float32, (1 - beta) / (1 - beta^n) over its mean.
    """
    weights = (1 - beta) / (1 - beta ** np.maximum(counts, 1))
    return (weights / weights.mean()).astype(np.float32)


def _with_one_branch(
    model: ModelState, weight: jax.Array | np.ndarray, bias: jax.Array
) -> ModelState:
    """Set the head of a model without a frozen branch: it reads the first half of the features."""
    width = weight.shape[1] // 2
    head = {
        "weight": model.params["head"]["weight"].at[:].set(weight).at[:, width:].set(0.0),
        "bias": model.params["head"]["bias"].at[:].set(bias),
    }
    return dataclasses.replace(model, params={**model.params, "head": head})
