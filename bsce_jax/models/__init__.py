"""Networks by name: `config.model.name` for the backbone, the method says which head."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from bsce_jax.errors import unknown
from bsce_jax.models.classifier import Classifier, Outputs, classify, evaluate
from bsce_jax.models.heads import CosineHead, LinearHead, LSCHead
from bsce_jax.models.resnet import ResNet
from bsce_jax.models.small import SmallNet

__all__ = [
    "DTYPES",
    "HEADS",
    "MODELS",
    "Classifier",
    "Outputs",
    "classify",
    "evaluate",
    "make_model",
]

_resnet18 = partial(ResNet, ((2, 64), (2, 128), (2, 256), (2, 512)), shortcut="projection")

MODELS: dict[str, Callable[..., nn.Module]] = {
    "small": SmallNet,
    "resnet8": partial(ResNet, ((1, 16), (1, 32), (1, 64)), "cifar", "padding"),
    # LUCIR's
    "resnet32": partial(ResNet, ((5, 16), (5, 32), (5, 64)), "cifar", "projection"),
    # PODNet's, whose last block is a stage of its own for the distillation of maps
    "resnet32_podnet": partial(
        ResNet,
        ((5, 16), (5, 32), (4, 64), (1, 64)),
        "cifar",
        "padding",
        block_relu=False,
        zero_blocks=True,
    ),
    "resnet18_cifar": partial(_resnet18, stem="cifar"),
    "resnet18": partial(_resnet18, stem="imagenet"),
}
HEADS: dict[str, Callable[[int], nn.Module]] = {
    "linear": LinearHead,
    "cosine": CosineHead,
    "lsc": LSCHead,
}
DTYPES = ("float32", "bfloat16")


def make_model(name: str, *, head: str, num_classes: int, dtype: str) -> Classifier:
    """Makes a network.

    Args:
      name: of the backbone, one of `MODELS`.
      head: one of `HEADS`; only a linear head gets rectified features.
      num_classes: of the whole scenario.
      dtype: of the backbone's computation, one of `DTYPES`.

    Raises:
      UserError: a name that does not exist.
    """
    for kind, given, valid in (
        ("model", name, MODELS),
        ("head", head, HEADS),
        ("dtype", dtype, DTYPES),
    ):
        if given not in valid:
            raise unknown(kind, given, valid)
    backbone = MODELS[name](final_relu=head == "linear", dtype=jnp.dtype(dtype))
    return Classifier(backbone, HEADS[head](num_classes))
