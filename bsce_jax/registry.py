"""Registries: methods, losses, networks, data sets, schedules and so on, by name.

A name is given where the object is defined, in the package or in a user's config file:

    @METHODS.register("anchor")
    class Anchor(Method): ...
"""

import os
import sys
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from bsce_jax.errors import UserError, unknown

T = TypeVar("T")
Registered = TypeVar("Registered")


class Registry(Generic[T]):
    """The objects of one kind, by name.

    Args:
      kind: what they are called in messages, such as "method".
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._things: dict[str, T] = {}
        self._places: dict[str, tuple[str, str]] = {}

    def register(self, name: str) -> Callable[[Registered], Registered]:
        """Register an object under a name, as a decorator of a class or a function.

        Executing the same definition again replaces it: a config file may run twice.

        Raises:
          UserError: another object has the name.
        """
        file = os.path.realpath(sys._getframe(1).f_code.co_filename)

        def add(thing: Registered) -> Registered:
            place = (file, getattr(thing, "__qualname__", repr(thing)))
            if self._places.get(name, place) != place:
                raise UserError(
                    f"{self.kind} {name!r} of {file} is registered already, by "
                    f"{self._places[name][0]}: choose another name"
                )
            self._places[name] = place
            self._things[name] = thing  # type: ignore[assignment]  # the caller says what T is
            return thing

        return add

    def __getitem__(self, name: str) -> T:
        """Return the object of a name.

        Raises:
          UserError: an unknown name; the message lists the nearest ones.
        """
        if name not in self._things:
            raise unknown(self.kind, name, self)
        return self._things[name]

    def __contains__(self, name: object) -> bool:
        return name in self._things

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._things))

    def __len__(self) -> int:
        return len(self._things)
