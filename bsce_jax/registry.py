"""Registries: methods, losses, networks, data sets, schedules and so on, by name.

A name is given where the object is defined, in the package or in a user's config file:

    @METHODS.register("anchor")
    class Anchor(Method): ...
"""

import os
import sys
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Generic, NamedTuple, TypeVar

from bsce_jax.errors import UserError, unknown

T = TypeVar("T")
Registered = TypeVar("Registered")


class _Place(NamedTuple):
    """Where a name was registered.

    Attributes:
      file: in which it was.
      thing: qualified name of the object.
      code: that was executed. Executing a file again compiles it again, to another code object.
      line: of the file.
    """

    file: str
    thing: str
    code: CodeType
    line: int

    def is_again(self, earlier: "_Place") -> bool:
        """Tell whether it is the earlier definition, executed again."""
        twice = self.code is earlier.code and self.line != earlier.line
        return self[:2] == earlier[:2] and not twice


class Registry(Generic[T]):
    """The objects of one kind, by name.

    Args:
      kind: what they are called in messages, such as "method".
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._things: dict[str, T] = {}
        self._places: dict[str, _Place] = {}

    def register(self, name: str) -> Callable[[Registered], Registered]:
        """Register an object under a name, as a decorator of a class or a function.

        Executing the same definition again replaces it: a config file may run twice.

        Raises:
          UserError: another object has the name.
        """
        frame = sys._getframe(1)
        code, line = frame.f_code, frame.f_lineno
        file = os.path.realpath(code.co_filename)

        def add(thing: Registered) -> Registered:
            place = _Place(file, getattr(thing, "__qualname__", repr(thing)), code, line)
            earlier = self._places.get(name, place)
            if not place.is_again(earlier):
                raise UserError(
                    f"{self.kind} {name!r} of {file}:{line} is registered already, by "
                    f"{earlier.file}:{earlier.line}: choose another name"
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
