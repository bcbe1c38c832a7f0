"""Fields of a config, each described once.

A section of a config is a frozen dataclass whose fields are made by `field`. The defaults, the
checks and the help all come from that description.
"""

import dataclasses
import functools
import math
import textwrap
import typing
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from bsce_jax.errors import UserError, unknown

WIDTH = 80  # of help texts
INDENT = 36  # column of the meanings in a help text
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def field(
    default: Any,
    meaning: str,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    choices: Iterable[str] | None = None,
    check: Callable[[Any], object] | None = None,
    alters_results: bool = True,
) -> Any:
    """Describe a field of a dataclass.

    Args:
      default: its default.
      meaning: one line, printed after the field's name.
      least, above: lower bound of valid values, inclusive or exclusive.
      most, below: upper bound of valid values, inclusive or exclusive.
      choices: the valid values, such as a registry of names.
      check: called with a value of the right type; raises `UserError` if it is invalid.
      alters_results: whether another value gives another run.
    """
    bounds = {"least": least, "above": above, "most": most, "below": below}
    given = {name: bound for name, bound in bounds.items() if bound is not None}
    metadata = {
        "meaning": meaning,
        "bounds": given,
        "choices": choices,
        "check": check,
        "alters_results": alters_results,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Field:
    """A field as `field` described it.

    Attributes:
      name: of the field.
      type: `int`, `float`, `bool`, `str`, or a tuple of one of them, as `tuple[float, ...]`.
      default: its default.
      meaning: one line.
      bounds: of its values, or of each item of a tuple.
      choices: the valid values, None for any.
      check_more: a further check, None for none.
      alters_results: whether another value gives another run.
    """

    name: str
    type: Any
    default: Any
    meaning: str
    bounds: dict[str, float]
    choices: Iterable[str] | None
    check_more: Callable[[Any], object] | None
    alters_results: bool = True

    @property
    def item_type(self) -> Any:
        """The type of a tuple's items, or of the value itself."""
        return typing.get_args(self.type)[0] if self.is_tuple else self.type

    @property
    def is_tuple(self) -> bool:
        """Whether the value is a tuple."""
        return typing.get_origin(self.type) is tuple

    @property
    def domain(self) -> str:
        """The valid values, in words."""
        words = {"least": "at least", "above": "above", "most": "at most", "below": "below"}
        if self.choices is not None:
            return f"one of {', '.join(self.choices)}"
        bounds = " and ".join(
            f"{words[name]} {f'{bound:,}'.removesuffix('.0')}"
            for name, bound in self.bounds.items()
        )
        kind = KINDS[self.item_type].removeprefix("a ") + "s" if self.is_tuple else ""
        return ", ".join(filter(None, [kind or KINDS[self.item_type], bounds]))

    def check(self, value: Any, path: str) -> Any:
        """Check a value and return it in the field's type.

        Args:
          value: of the field.
          path: of the field in the config, for the message.

        Raises:
          UserError: an invalid value.
        """
        if self.is_tuple:
            if not isinstance(value, list | tuple):
                raise UserError(f"{path} is {value!r}: give {self.domain}, joined by commas")
            value = tuple(self._check_item(item, path) for item in value)
        else:
            value = self._check_item(value, path)
        if self.check_more is not None:
            self.check_more(value)
        return value

    def read(self, text: str, path: str) -> Any:
        """Parse a value of the command line; see `check`."""
        if self.is_tuple:
            items = text.strip("()[] ").split(",")
            return self.check([self._read_item(item.strip(), path) for item in items if item], path)
        return self.check(self._read_item(text, path), path)

    def write(self, value: Any) -> str:
        """Format a value for the command line."""
        return ",".join(map(str, value)) if self.is_tuple else str(value)

    def describe(self, value: Any, path: str) -> str:
        """Make the lines of a help text: the field, its value, its meaning, the valid values."""
        start = f"  {path}={self.write(value)}".ljust(INDENT - 2)
        domain = "" if self.type is str and self.choices is None else f": {self.domain}"
        return textwrap.fill(
            f"{start}  {self.meaning}{domain}",
            width=WIDTH,
            subsequent_indent=" " * INDENT,
            break_on_hyphens=False,
        )

    def _read_item(self, text: str, path: str) -> Any:
        if self.item_type is bool:
            words = {"true": True, "1": True, "false": False, "0": False}
            if text.lower() in words:
                return words[text.lower()]
        else:
            try:
                return self.item_type(text)
            except ValueError:
                pass
        raise UserError(f"{path} is {text!r}: it must be {self.domain}")

    def _check_item(self, value: Any, path: str) -> Any:
        kind = self.item_type
        if kind is float and type(value) is int:
            value = float(value) if abs(value) < 1e300 else math.inf
        if type(value) is not kind:
            raise UserError(f"{path} is {value!r}: it must be {self.domain}")
        if self.choices is not None and value not in self.choices:
            raise unknown(path, value, self.choices)
        if kind is int and not self._has_inside(value):
            raise UserError(f"{path} is {value}: it must be {self.domain}")
        if kind is float:
            if not (math.isfinite(value) and self._has_inside(value)):
                raise UserError(f"{path} is {value}: it must be {self.domain}")
            with np.errstate(over="ignore"):
                single = float(np.float32(value))  # what a run computes with
            if not (math.isfinite(single) and self._has_inside(single)):
                raise UserError(f"{path} is {value}, {single} in float32: it must be {self.domain}")
        return value

    def _has_inside(self, number: float) -> bool:
        """Tell whether a number is inside the bounds."""
        inside = {
            "least": lambda bound: number >= bound,
            "above": lambda bound: number > bound,
            "most": lambda bound: number <= bound,
            "below": lambda bound: number < bound,
        }
        return all(inside[name](bound) for name, bound in self.bounds.items())


@functools.cache
def fields_of(cls: type) -> dict[str, Field]:
    """List the fields of a dataclass by name.

    Raises:
      TypeError: a field that was not made by `field`.
    """
    types = typing.get_type_hints(cls)
    found = {}
    for f in dataclasses.fields(cls):
        if "meaning" not in f.metadata:
            raise TypeError(f"{cls.__name__}.{f.name} has no meaning: make it with fields.field")
        found[f.name] = Field(
            f.name,
            types[f.name],
            f.default,
            f.metadata["meaning"],
            f.metadata["bounds"],
            f.metadata["choices"],
            f.metadata["check"],
            f.metadata["alters_results"],
        )
    return found
