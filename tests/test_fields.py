"""Fields: what is read, what is refused, and how it is said."""

import dataclasses
import re
from typing import Any

import pytest

from bsce_jax.errors import UserError
from bsce_jax.fields import field, fields_of


def _even(value: int) -> None:
    if value % 2:
        raise UserError(f"{value} is odd")


@dataclasses.dataclass(frozen=True)
class Section:
    count: int = field(2, "how many", least=0, most=1000, check=_even)
    rate: float = field(0.5, "how fast", above=0, below=1)
    on: bool = field(False, "whether")
    kind: str = field("round", "of which kind", choices=("round", "square"))
    free: str = field("", "anything")
    parts: tuple[float, ...] = field((0.5,), "shares", least=0)


FIELDS = fields_of(Section)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("count", "4", 4),
        ("count", "1000", 1000),
        ("rate", "5e-1", 0.5),
        ("on", "True", True),
        ("on", "0", False),
        ("kind", "square", "square"),
        ("free", "a=b, c", "a=b, c"),
        ("parts", "0.25,1", (0.25, 1.0)),
        ("parts", "(0.25, 1)", (0.25, 1.0)),
        ("parts", "", ()),
    ],
)
def test_read(name: str, text: str, value: Any) -> None:
    read = FIELDS[name].read(text, name)
    assert read == value
    assert type(read) is type(value)
    assert FIELDS[name].read(FIELDS[name].write(value), name) == value


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "count",
            "4.0",
            "s.count is '4.0': it must be a whole number, at least 0 and at most 1,000",
        ),
        (
            "count",
            "1002",
            "s.count is 1002: it must be a whole number, at least 0 and at most 1,000",
        ),
        ("count", "-2", "s.count is -2: it must"),
        ("count", "3", "3 is odd"),
        ("rate", "0", "s.rate is 0.0: it must be a number, above 0 and below 1"),
        ("rate", "1", "s.rate is 1.0: it must"),
        ("rate", "nan", "s.rate is nan: it must"),
        ("rate", "1e-46", "s.rate is 1e-46, 0.0 in float32: it must be a number, above 0"),
        ("rate", "0.999999999", "s.rate is 0.999999999, 1.0 in float32: it must be"),
        ("parts", "1e39", "s.parts is 1e+39, inf in float32: it must be numbers, at least 0"),
        ("rate", "x", "s.rate is 'x': it must be a number, above 0"),
        ("on", "maybe", "s.on is 'maybe': it must be true or false"),
        ("kind", "squar", "unknown s.kind 'squar'; did you mean square?"),
        ("parts", "0.5,-1", "s.parts is -1.0: it must be numbers, at least 0"),
        ("parts", "inf", "s.parts is inf: it must"),
    ],
)
def test_what_is_not_right_is_refused(name: str, text: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        FIELDS[name].read(text, f"s.{name}")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("count", True), ("count", 2.0), ("count", 10**400), ("on", 1), ("kind", 3)),
        *(("rate", None), ("rate", True), ("rate", 10**400)),
        *(("parts", 0.5), ("parts", ["x"])),
    ],
)
def test_values_of_another_type_are_refused(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"^{name} is "):
        FIELDS[name].check(value, name)


def test_a_whole_number_is_a_number_and_a_list_a_tuple() -> None:
    assert type(FIELDS["parts"].check([1, 2], "parts")[0]) is float
    assert FIELDS["parts"].check([1, 2], "parts") == (1.0, 2.0)


def test_the_help_of_a_field_says_what_is_right() -> None:
    kind, free = FIELDS["kind"].describe("round", "s.kind"), FIELDS["free"].describe("x", "s.free")
    assert kind.split(maxsplit=1) == ["s.kind=round", "of which kind: one of round, square"]
    assert free.split() == ["s.free=x", "anything"]


def test_a_field_needs_a_meaning() -> None:
    @dataclasses.dataclass
    class Bare:
        count: int = 0

    with pytest.raises(TypeError, match=r"Bare\.count has no meaning"):
        fields_of(Bare)
