"""DER and MEMO: one more branch of the network in every task, the earlier ones frozen."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from bsce_jax import losses
from bsce_jax.errors import UserError
from bsce_jax.fields import field
from bsce_jax.methods import METHODS, Method, ModelState, Probe, Stage, Step, TaskInfo, Terms
from bsce_jax.methods.wa import align
from bsce_jax.models import Classifier
from bsce_jax.models.growing import GrowingClassifier, freeze_branch
from bsce_jax.models.heads import LinearHead
from bsce_jax.streams import Purpose, generator


@METHODS.register("der")
@dataclasses.dataclass(frozen=True)
class DER(Method):
    """Dynamically Expandable Representation (Yan et al. 2021), as in PyCIL's code.

    Every task begins with a copy of the last branch, which is trained, and freezes the last one.
    The head scores the features of all branches. An auxiliary head tells, from the features of the
    new branch alone, the new classes from each other and from all old ones together.
    After a task the new class vectors are aligned as by WA, unless the loss is balanced. There is
    no pruning of the branches, as in all published code.
    """

    loss: ClassVar[str] = "cross_entropy"
    auxiliary_weight: float = field(1.0, "weight of the auxiliary loss", least=0.0)

    def network(self, base: Classifier, task: int, tasks: int) -> Classifier:
        return self._growing(base, base.backbone, tasks)

    def _growing(
        self, base: Classifier, branch: nn.Module, tasks: int, trunk: nn.Module | None = None
    ) -> GrowingClassifier:
        auxiliary = LinearHead(1 + base.head.num_classes)
        slots = max(1, tasks - 1)  # a checkpoint cannot have arrays without numbers
        head = base.head.clone(branches=slots + 1)
        return GrowingClassifier(branch, head, auxiliary, slots, trunk)

    @property
    def trained(self) -> tuple[str, ...]:
        """The parts of the network that are trained in all tasks."""
        return ("backbone", "head")

    def stages(self, main: Stage, task: int) -> tuple[Stage, ...]:
        if task == 0:
            return (dataclasses.replace(main, terms=self.classification, trainable=self.trained),)
        return (dataclasses.replace(main, trainable=(*self.trained, "auxiliary")),)

    def terms(self, step: Step) -> Terms:
        # row 0 of the auxiliary head is "any old class", row 1 + c is class c
        labels = jnp.where(step.is_old, 0, 1 + step.labels)
        competes = jnp.concatenate([jnp.ones(1, bool), step.task.new])
        among = jnp.where(competes, 0.0, -jnp.inf)
        assert step.student.auxiliary is not None
        auxiliary = losses.softmax_cross_entropy(step.student.auxiliary, labels, among)
        return {
            "classification": step.classification(),
            "auxiliary": self.auxiliary_weight * step.mean(auxiliary),
        }

    def begin_task(self, model: ModelState, task: TaskInfo, probe: Probe) -> ModelState:
        head = model.params["head"]
        width = head["weight"].shape[1] // probe.network.branches
        end = (task.index + 1) * width  # of the columns of all branches that exist
        weight = head["weight"].at[:, end:].set(0.0)
        if task.index == 0:
            params = {**model.params, "head": {**head, "weight": weight}}
            return dataclasses.replace(model, params=params)
        rng = generator(task.seed, Purpose.BRANCH, task.index)
        fresh = fresh_vectors(rng, head["weight"].shape[0], end)
        kept = np.array(head["weight"])[: task.old, : end - width]
        fresh[: task.old, : end - width] = kept
        head = {
            "weight": weight.at[:, :end].set(fresh),
            "bias": head["bias"].at[task.old :].set(0.0),
        }
        auxiliary = model.params["auxiliary"]
        auxiliary = {
            "weight": auxiliary["weight"].at[:].set(fresh_vectors(rng, *auxiliary["weight"].shape)),
            "bias": auxiliary["bias"].at[:].set(0.0),
        }
        return dataclasses.replace(
            model,
            params={**model.params, "head": head, "auxiliary": auxiliary},
            batch_stats=freeze_branch(model.params, model.batch_stats),
        )

    def end_training(self, model: ModelState, task: TaskInfo, probe: Probe) -> ModelState:
        return model if task.balanced else align(model, task)


@METHODS.register("memo")
@dataclasses.dataclass(frozen=True)
class MEMO(DER):
    """MEMO (Zhou et al. 2023): DER whose branches are only the last stage of the network.

    All branches share the other stages, the trunk, which is trained in every task, also through
    the frozen branches.
    """

    @property
    def trained(self) -> tuple[str, ...]:
        return ("trunk", "backbone", "head")

    def network(self, base: Classifier, task: int, tasks: int) -> Classifier:
        split: Any = getattr(base.backbone, "split", None)
        if split is None:
            name = type(base.backbone).__name__
            raise UserError(
                f"method.name is memo: model.name needs a network with `split`, {name} has none"
            )
        trunk, tail = split()
        return self._growing(base, tail, tasks, trunk)


def fresh_vectors(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Draw class vectors: uniform with variance 1 / columns, as in PyCIL."""
    bound = np.sqrt(3 / columns)
    return rng.uniform(-bound, bound, (rows, columns)).astype(np.float32)
