"""Networks: a backbone that makes features and a head that scores classes."""

import jax.numpy as jnp

from bsce_jax.errors import unknown
from bsce_jax.models import heads, resnet, small  # noqa: F401  (imported to register)
from bsce_jax.models.classifier import Classifier, Outputs, classify, infer
from bsce_jax.models.names import HEADS, NETWORKS

__all__ = [
    "DTYPES",
    "HEADS",
    "NETWORKS",
    "Classifier",
    "Outputs",
    "classify",
    "infer",
    "make_model",
]

DTYPES = ("float32", "bfloat16")


def make_model(
    name: str, *, head: str, num_classes: int, dtype: str, platform: str | None = None
) -> Classifier:
    """Make a network.

    Args:
      name: of the backbone, one of `NETWORKS`.
      head: one of `HEADS`; only a linear head gets rectified features.
      num_classes: of the whole scenario.
      dtype: of the backbone's computation, one of `DTYPES`.
      platform: of the devices, such as "cuda"; None for the default of this process. It chooses
        between implementations of the same functions, in a backbone that has this field.

    Raises:
      UserError: an unknown name.
    """
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    backbone = NETWORKS[name](final_relu=head == "linear", dtype=jnp.dtype(dtype))
    if platform is not None and hasattr(backbone, "platform"):
        backbone = backbone.clone(platform=platform)
    return Classifier(backbone, HEADS[head](num_classes))
