"""The problem on which product and reference are compared: eight classes of a few random images."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from reference.problem import Model

from bsce_jax import config as config_lib
from bsce_jax.data import Dataset
from bsce_jax.methods import ModelState
from bsce_jax.models import NETWORKS
from bsce_jax.models.channels import with_offset
from bsce_jax.models.ops.conv import Conv
from bsce_jax.models.ops.norm import BatchNorm
from bsce_jax.training.problem import Problem
from bsce_jax.training.trainer import Trainer

RATES = {0: (0.1, 0.05), 1: (0.04, 0.02)}  # of the two steps of a stage
MOMENTUM, DECAY = 0.9, 0.05  # such that it shows when decay and momentum change places
SIZES = (5, 4, 3, 6, 8, 7, 4, 4)  # images of each class; two classes a task
EXEMPLARS = ((0, 1, 2), (5, 6), (9,), (12, 13), (18, 19, 20), (26, 27, 28))
SHAPE, FEATURES = (6, 6, 3), 8


@NETWORKS.register("smooth")
class SmoothNet(nn.Module):
    """Two stages of convolution and BatchNorm, without the kinks at which rounding decides.

    Attributes:
      final_relu: whether an activation comes last.
      dtype: of the computation.
      stages: width and stride of each.
    """

    final_relu: bool
    dtype: jnp.dtype
    stages: tuple[tuple[int, int], ...] = ((6, 1), (FEATURES, 2))

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        x, maps = images, list[jax.Array]()
        for width, stride in self.stages:
            x = Conv(width, stride=stride, dtype=self.dtype)(x)
            x = BatchNorm(dtype=self.dtype)(x, train)
            x = with_offset(self, len(maps), x)
            maps.append(x)
            if stride == 1 or self.final_relu:
                x = nn.softplus(x)
        return x.mean(axis=(1, 2)), tuple(maps)

    @nn.nowrap
    def split(self) -> tuple[nn.Module, nn.Module]:
        first, second = (self.clone(stages=(stage,)) for stage in self.stages)
        return SmoothTrunk(first), second


class SmoothTrunk(nn.Module):
    """The map of a network's last stage, after the activation."""

    network: nn.Module

    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        _, maps = self.network(images, train)
        return nn.softplus(maps[-1])


@dataclasses.dataclass(frozen=True)
class Case:
    """A method with a loss, in one of its stages of a task.

    Attributes:
      method: its name.
      loss: its name; None for the one that it was published with.
      stage: 0 for the training, 1 for the balanced fine-tuning.
      task: number of the task.
      fields: of the config that are not the defaults.
    """

    method: str
    loss: str | None = None
    stage: int = 0
    task: int = 2
    fields: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        values = "-".join(f"{path.rpartition('.')[2]}={value}" for path, value in self.fields)
        stage = ("training", "finetuning")[self.stage]
        return "-".join(filter(None, [self.method, self.loss, stage, f"task{self.task}", values]))


@functools.cache
def dataset() -> Dataset:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), SIZES)
    images = rng.integers(0, 256, (len(labels), *SHAPE), dtype=np.uint8)
    return Dataset.from_arrays(
        "tiny", images, labels, images, labels, mean=(0.5, 0.4, 0.6), std=(0.2, 0.3, 0.25)
    )


def make_trainer(case: Case) -> Trainer:
    return _make_trainer(case.method, case.loss, case.fields)


@functools.cache
def _make_trainer(method: str, loss: str | None, fields: tuple[tuple[str, Any], ...]) -> Trainer:
    config = config_lib.default(method, loss)
    config.model.name = "smooth"
    config.scenario.update(base=2, increment=2, class_order="sorted")
    config.train.update(
        epochs=1,
        batch_size=12,
        learning_rate=RATES[0][0],
        momentum=MOMENTUM,
        weight_decay=DECAY,
        schedule="step",
        milestones=(0.5,),
        decay=0.5,
    )
    if config.memory.size:
        config.memory.size = 3
    if "finetune_epochs" in config.method:
        config.method.update(finetune_epochs=1, finetune_learning_rate=RATES[1][0])
    config.update_from_flattened_dict(dict(fields))
    return Trainer(Problem(config, dataset()))


def exemplars(problem: Problem, classes: int) -> tuple[tuple[int, ...], ...]:
    """The exemplars of the first classes."""
    return EXEMPLARS[:classes] if problem.config.memory.size else ((),) * classes


def normalised(records: np.ndarray) -> np.ndarray:
    images = dataset().train.images(records) / 255.0
    return (images - np.array(dataset().mean)) / np.array(dataset().std)


def make_model(case: Case, seed: int) -> Model:
    """Draw a model that has been trained, as it were: nothing in it is 0, 1 or alike."""
    network = make_trainer(case).problem.network_of(case.task)
    images = jax.ShapeDtypeStruct((1, *SHAPE), jnp.float32)
    shapes = jax.eval_shape(functools.partial(network.init, train=False), jax.random.key(0), images)
    rng = np.random.default_rng(seed)

    def normal(*shape: int, mean: float = 0.0, std: float = 1.0) -> np.ndarray:
        drawn = np.asarray(mean + std * rng.normal(size=shape))
        return drawn.astype(np.float32).astype(np.float64)

    def parameter(path: str, shape: tuple[int, ...]) -> np.ndarray:
        if path.endswith("kernel"):
            return normal(*shape, std=0.2)
        if path.endswith("scale"):
            return normal(*shape, mean=3.3 if shape == () else 1.0, std=0.1)
        return normal(*shape, std=0.3)

    params, stats = (
        traverse_util.flatten_dict(shapes[part], sep="/") for part in ("params", "batch_stats")
    )
    params = {path: parameter(path, leaf.shape) for path, leaf in params.items()}

    def other(path: str, shape: tuple[int, ...]) -> np.ndarray:
        if path == "count":
            if case.method == "foster":  # the compression has both branches as its teacher
                return np.array(int(case.task > 0 and (case.stage == 0 or seed == 2)))
            return np.array(case.task)  # a branch for each earlier task
        if path.startswith("frozen/params"):
            return parameter(path, shape)
        return abs(normal(*shape, mean=1, std=0.1))

    stats = {path: other(path, leaf.shape) for path, leaf in stats.items()}
    extra: dict[str, Any] = {
        "bic": lambda: {"alpha": normal(8, mean=0.8, std=0.1), "beta": normal(8)},
        # some above `fisher_max`, most below
        "ewc": lambda: {
            "fisher": {path: 1e-4 * normal(*p.shape) ** 2 for path, p in params.items()}
        },
        "foster": lambda: {
            "head": {"weight": normal(8, FEATURES), "bias": normal(8)},
            "weights": {
                name: abs(normal(8, mean=1, std=0.3)) for name in ("logits", "compression")
            },
        },
        "fetril": lambda: {"means": normal(8, FEATURES)},
        "pass": lambda: {"prototypes": normal(8, FEATURES), "radius": normal(mean=0.3, std=0)},
    }
    return Model(params, stats, extra[case.method]() if case.method in extra else {})


def product_model(model: Model) -> ModelState:
    def array(path: str, value: Any) -> jax.Array:
        return jnp.asarray(value, jnp.int32 if path == "count" else jnp.float32)

    def tree(flat: dict[str, Any]) -> Any:
        return traverse_util.unflatten_dict({p: array(p, v) for p, v in flat.items()}, sep="/")

    extra = {name: tree(v) if isinstance(v, dict) else v for name, v in model.extra.items()}
    return ModelState(tree(model.params), tree(model.stats), jax.tree.map(jnp.float32, extra))
