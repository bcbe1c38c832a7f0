"""The methods by name: `config.method`.

Every file of this folder is imported, so a new method is one new file. A class outside the package
is registered by `@METHODS.register("name")` too.
"""

import importlib
import pkgutil

from bsce_jax.methods.base import METHODS, Method
from bsce_jax.methods.stage import Stage
from bsce_jax.methods.state import ModelState, Params, TaskContext
from bsce_jax.methods.step import Step, Terms
from bsce_jax.methods.task import Probe, TaskInfo

__all__ = [
    "METHODS",
    "Method",
    "ModelState",
    "Params",
    "Probe",
    "Stage",
    "Step",
    "TaskContext",
    "TaskInfo",
    "Terms",
]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
