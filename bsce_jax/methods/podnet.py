"""PODNet and AFC: an LSC head, and distillation of the feature maps."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bsce_jax import losses
from bsce_jax.errors import UserError
from bsce_jax.fields import field
from bsce_jax.methods import METHODS, Method, ModelState, Probe, Stage, Step, TaskInfo, Terms
from bsce_jax.methods.imprint import imprint
from bsce_jax.models import Classifier
from bsce_jax.models.channels import IMPORTANCE, ChannelClassifier, squared_gradients

BATCH = 128  # images whose gradients are computed at a time
SIMILARITIES = ("distance", "cosine")


@dataclasses.dataclass(frozen=True)
class LSCMethod(Method):
    """What PODNet and AFC share: the head, its fine-tuning and the clamped gradients.

    The published code scores a proxy by its negative squared distance, 2 cos - 2, PODNet's paper by
    the cosine.
    """

    loss: ClassVar[str] = "nca"
    teacher: ClassVar[bool] = True
    similarity: str = field(
        "distance",
        "of feature and proxy: `distance` (2 cos - 2) or `cosine`",
        choices=SIMILARITIES,
    )
    clamp: float = field(5.0, "largest absolute value of a gradient's element", above=0.0)
    finetune_epochs: int = field(
        20, "epochs of the balanced fine-tuning of the head, 0 leaves it out", least=0, most=100_000
    )
    finetune_learning_rate: float = field(
        0.05, "learning rate at the start of the fine-tuning", above=0.0
    )

    @property
    def head(self) -> str:
        return "lsc_distance" if self.similarity == "distance" else "lsc"

    def network(self, base: Classifier, task: int, tasks: int) -> Classifier:
        if not _has_maps(base):
            name = type(base.backbone).__name__
            raise UserError(f"the distillation needs feature maps: {name} of model.name has none")
        return base

    def stages(self, main: Stage, task: int) -> tuple[Stage, ...]:
        """Train with frozen old proxies, then fine-tune the proxies if configured.

        The fine-tuning is that of the published code: the scale is frozen, BatchNorm is in training
        mode, and the learning rate is constant.
        """
        main = dataclasses.replace(main, freeze_old_rows=True)
        if task == 0 or not self.finetune_epochs:
            return (main,)
        return main, main.balanced_finetuning(
            epochs=self.finetune_epochs,
            learning_rate=self.finetune_learning_rate,
            schedule="constant",
            terms=self.classification,
            teacher="none",
            trainable=("head/weight",),
        )

    def gradient_transform(self) -> optax.GradientTransformation:
        return optax.clip(self.clamp)

    def begin_task(self, model: ModelState, task: TaskInfo, probe: Probe) -> ModelState:
        return imprint(model, task, probe, proxies=model.params["head"]["weight"].shape[1])


@functools.cache
def _has_maps(network: Classifier) -> bool:
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    init = functools.partial(network.init_with_output, train=False)
    outputs, _ = jax.eval_shape(init, jax.random.key(0), images)
    return len(outputs.maps) > 0


def growth(step: Step) -> jax.Array:
    """Return sqrt(seen / new classes), by which both methods weigh the distillation."""
    return jnp.sqrt(jnp.sum(step.task.seen) / jnp.sum(step.task.new))


@METHODS.register("podnet")
@dataclasses.dataclass(frozen=True)
class PODNet(LSCMethod):
    """PODNet (Douillard et al. 2020): LSC head, POD-spatial and POD-flat distillation.

    Both distillation terms are scaled by sqrt(seen / new classes).
    """

    spatial: float = field(
        3.0, "weight of POD-spatial, on the maps of every stage (equations 3 to 5)", least=0.0
    )
    flat: float = field(1.0, "weight of POD-flat, on the final features (equation 6)", least=0.0)

    def terms(self, step: Step) -> Terms:
        spatial = losses.pod_spatial(step.student.maps, step.teacher.maps)
        flat = losses.less_forget(step.student.features, step.teacher.features)
        return {
            "classification": step.classification(),
            "pod_spatial": self.spatial * growth(step) * step.mean(spatial),
            "pod_flat": self.flat * growth(step) * step.mean(flat),
        }


@METHODS.register("afc")
@dataclasses.dataclass(frozen=True)
class AFC(LSCMethod):
    """AFC (Kang et al. 2022): PODNet with a distillation of the maps channel by channel.

    The term is scaled by sqrt(seen / new classes). Each channel is weighed by its importance: the
    mean over the images of the squared gradient of the loss by the channel, summed over its pixels,
    over the mean of the map's channels. It is computed after the training of each task, from its
    images and the exemplars, for the distillation in the next one.

    The published code computes it with PODNet's loss, random crops and BatchNorm in training mode,
    after the fine-tuning; here it is the cross-entropy of the logits, without augmentation, in
    inference mode, before the fine-tuning.
    """

    pixel: float = field(4.0, "weight of the distillation", least=0.0)

    def network(self, base: Classifier, task: int, tasks: int) -> Classifier:
        base = super().network(base, task, tasks)
        return ChannelClassifier(base.backbone, base.head)

    def end_training(self, model: ModelState, task: TaskInfo, probe: Probe) -> ModelState:
        totals: list[np.ndarray] = []
        for start in range(0, len(task.train), BATCH):
            part = task.train[start : start + BATCH]
            weights = np.zeros(BATCH, np.float32)
            weights[: len(part)] = 1  # a short batch is padded, so that there is one shape
            part = np.resize(part, BATCH)
            squares = squared_gradients(
                probe.network,
                model.variables,
                probe.images(part),
                task.labels[part],
                weights,
                np.int32(task.seen),
            )
            found = [np.asarray(one, np.float64) for one in squares]
            totals = found if not totals else [a + b for a, b in zip(totals, found, strict=True)]
        importance = {}
        for number, total in enumerate(totals):
            name = f"{IMPORTANCE}{number}"
            # a backbone of your own may have no offsets: then all channels count alike
            weighed = total / total.mean() if total.any() else np.ones_like(total)
            importance[name] = model.batch_stats[name].at[:].set(weighed)
        return dataclasses.replace(model, batch_stats={**model.batch_stats, **importance})

    def terms(self, step: Step) -> Terms:
        maps, kept = step.teacher.maps, step.previous.batch_stats
        importance = [kept[f"{IMPORTANCE}{number}"] for number in range(len(maps))]
        apart = losses.pod_pixel(step.student.maps, maps, importance)
        return {
            "classification": step.classification(),
            "pod_pixel": self.pixel * growth(step) * step.mean(apart),
        }
