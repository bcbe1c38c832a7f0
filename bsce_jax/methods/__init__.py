"""The methods by name: `config.method`. Every file of this folder is imported, so a new method
is one new file; a class outside the package becomes known by the same `@register("name")`."""

import importlib
import pkgutil
from collections.abc import Callable
from typing import TypeVar

from bsce_jax.errors import unknown
from bsce_jax.methods.base import Method, ModelState, Probe, Step, TaskContext, TaskInfo

__all__ = [
    "Method",
    "ModelState",
    "Probe",
    "Step",
    "TaskContext",
    "TaskInfo",
    "method_class",
    "method_names",
    "register",
]

_METHODS: dict[str, type[Method]] = {}
_Method = TypeVar("_Method", bound=type[Method])


def register(name: str) -> Callable[[_Method], _Method]:
    """Makes a class known as `config.method.name`; decorate it with `@register(name)`."""

    def add(cls: _Method) -> _Method:
        _METHODS[name] = cls
        return cls

    return add


def method_class(name: str) -> type[Method]:
    """Returns the method registered under a name.

    Raises:
      UserError: no method has that name; the message lists the nearest.
    """
    if name not in _METHODS:
        raise unknown("method", name, _METHODS)
    return _METHODS[name]


def method_names() -> tuple[str, ...]:
    """Returns the names of all methods."""
    return tuple(_METHODS)


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
