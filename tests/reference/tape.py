"""Numpy arrays that remember how they were made, and the gradient of one number by them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Array = np.ndarray
Pull = Callable[[Array], Array]  # the gradient by a result -> that by what it was made of

_numbers = itertools.count()


class Var:
    """A float64 array and the arrays that it was made of."""

    __array_ufunc__ = None  # numpy leaves `array * var` to this class

    def __init__(self, value: Any, *parents: tuple[Var, Pull]):
        self.value = np.asarray(value, np.float64)
        self.parents = parents
        self.number = next(_numbers)  # later than those of its parents

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    def __len__(self) -> int:
        return len(self.value)

    def __add__(self, other: Any) -> Var:
        a, b = self, var(other)
        return Var(a.value + b.value, (a, lambda g: _like(g, a)), (b, lambda g: _like(g, b)))

    def __mul__(self, other: Any) -> Var:
        a, b = self, var(other)
        by_a, by_b = lambda g: _like(g * b.value, a), lambda g: _like(g * a.value, b)
        return Var(a.value * b.value, (a, by_a), (b, by_b))

    def __pow__(self, power: float) -> Var:
        return Var(self.value**power, (self, lambda g: g * power * self.value ** (power - 1)))

    def __matmul__(self, matrix: Any) -> Var:
        """Multiply [..., k] with [k, m]."""
        a, b = self, var(matrix)
        rows = lambda x: x.reshape(-1, x.shape[-1])
        by_b = lambda g: rows(a.value).T @ rows(g)
        return Var(a.value @ b.value, (a, lambda g: g @ b.value.T), (b, by_b))

    def __getitem__(self, place: Any) -> Var:
        def pull(g: Array) -> Array:
            out = np.zeros(self.shape)
            np.add.at(out, place, g)
            return out

        return Var(self.value[place], (self, pull))

    def sum(self, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Var:
        def pull(g: Array) -> Array:
            if axis is not None and not keepdims:
                g = np.expand_dims(g, axis)
            return np.broadcast_to(g, self.shape)

        return Var(self.value.sum(axis, keepdims=keepdims), (self, pull))

    def mean(self, axis: int | tuple[int, ...] | None = None) -> Var:
        total = self.sum(axis)
        return total * (total.value.size / self.value.size)

    def reshape(self, *shape: int) -> Var:
        return Var(self.value.reshape(*shape), (self, lambda g: g.reshape(self.shape)))

    @property
    def T(self) -> Var:
        return Var(self.value.T, (self, lambda g: g.T))

    def __neg__(self) -> Var:
        return self * -1.0

    def __sub__(self, other: Any) -> Var:
        return self + -var(other)

    def __rsub__(self, other: Any) -> Var:
        return var(other) + -self

    def __truediv__(self, other: Any) -> Var:
        return self * var(other) ** -1.0

    def __rtruediv__(self, other: Any) -> Var:
        return var(other) * self**-1.0

    __radd__ = __add__
    __rmul__ = __mul__


def var(x: Any) -> Var:
    """Make a constant of numbers; leave others as they are."""
    return x if isinstance(x, Var) else Var(x)


def exp(x: Var) -> Var:
    y = np.exp(x.value)
    return Var(y, (x, lambda g: g * y))


def log(x: Var) -> Var:
    return Var(np.log(x.value), (x, lambda g: g / x.value))


def relu(x: Var) -> Var:
    return x * (x.value > 0)


def pad(x: Var, pixels: int) -> Var:
    """Put zeros round [batch, height, width, channels] images."""
    inside = (slice(None), slice(pixels, -pixels), slice(pixels, -pixels))
    widths = ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0))
    return Var(np.pad(x.value, widths), (x, lambda g: g[inside]))


def concatenate(parts: Sequence[Var], axis: int) -> Var:
    ends = np.cumsum([part.shape[axis] for part in parts])
    cut = lambda i: lambda g: np.split(g, ends[:-1], axis)[i]
    whole = np.concatenate([part.value for part in parts], axis)
    return Var(whole, *((part, cut(i)) for i, part in enumerate(parts)))


def stack(numbers: Sequence[Var]) -> Var:
    """Make [n] of n numbers."""
    return concatenate([number.reshape(1) for number in numbers], 0)


def gradient(number: Var, by: dict[str, Var]) -> dict[str, Array]:
    """Differentiate one number by some of the arrays that it was made of."""
    slopes: dict[int, Array] = {number.number: np.ones(number.shape)}
    waiting = {number.number: number}
    while waiting:
        latest = waiting.pop(max(waiting))
        for parent, pull in latest.parents:
            slope = pull(slopes[latest.number])
            slopes[parent.number] = slopes.get(parent.number, 0.0) + slope
            waiting[parent.number] = parent
    return {name: slopes.get(x.number, np.zeros(x.shape)) for name, x in by.items()}


def _like(slope: Array, x: Var) -> Array:
    """Add up what broadcasting had spread."""
    slope = slope.sum(tuple(range(slope.ndim - x.value.ndim)))
    spread = tuple(i for i, size in enumerate(x.shape) if size == 1 < slope.shape[i])
    return slope.sum(spread, keepdims=True)
