"""One way to give things names: methods, losses, networks, data sets, schedules and the like.

A name is chosen once, where the thing is defined, in the package or in a config file of one's own:

    @METHODS.register("anchor")
    class Anchor(Method): ...
"""

import sys
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from bsce_jax.errors import UserError, unknown

T = TypeVar("T")
Registered = TypeVar("Registered")


class Registry(Generic[T]):
    """The things of one kind, by name.

    Args:
      kind: what they are called in messages, such as "method".
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._things: dict[str, T] = {}
        self._places: dict[str, tuple[str, str]] = {}

    def register(self, name: str) -> Callable[[Registered], Registered]:
        """Make a thing known under a name; a decorator of classes and functions.

        The same definition, executed again, replaces itself: a config file may be run twice.

        Raises:
          UserError: the name is another thing's.
        """
        file = sys._getframe(1).f_code.co_filename

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
        """Look a name up.

        Raises:
          UserError: nothing has that name; the message lists the nearest.
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
