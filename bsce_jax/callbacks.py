"""Callbacks: what a run calls with each record that it logs, by name."""

import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bsce_jax.registry import Registry

if TYPE_CHECKING:
    from ml_collections import ConfigDict

# called with an entry of metrics.jsonl, as soon as it is there
Callback = Callable[[dict[str, Any]], object]

# (config, folder of the run) -> callback; made once, when the run starts or resumes
CALLBACKS: "Registry[Callable[[ConfigDict, pathlib.Path], Callback]]" = Registry("callback")


@CALLBACKS.register("none")
def none(config: "ConfigDict", folder: pathlib.Path) -> Callback:
    """Make the callback that does nothing."""
    return lambda record: None
