"""Networks and heads by name: `config.model.name` chooses the network, the method the head."""

from collections.abc import Callable

import flax.linen as nn

from bsce_jax.registry import Registry

# (final_relu and dtype, by keyword) -> a module; its call takes images and `train`, and returns
# features [batch, D] and a tuple of maps. It may have a field `platform`, see `make_model`
NETWORKS = Registry[Callable[..., nn.Module]]("network")
# (number of classes) -> a module; its call takes features and returns `heads.Scores`
HEADS = Registry[Callable[[int], nn.Module]]("head")
