"""What derivatives take for a constant although it varies, and differences that do the same.

A published algorithm may leave out a dependence by design. Its derivatives are then those of a
function in which the constants keep their values; a finite difference would see them move.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

from torch import Tensor

Point = TypeVar("Point")
Result = TypeVar("Result")

_values: list[Tensor] | None = None  # of one call: recorded, or to be given again
_number: int | None = None  # of the next value to give again; None while recording
_moving = False


def held(x: Tensor) -> Tensor:
    """`x` as a constant of every derivative, and of the differences of a `frozen` function."""
    global _number
    if _values is None:
        return x.detach()
    if _number is None:
        _values.append(x.detach())
        return _values[-1]
    _number += 1
    return _values[_number - 1]


def frozen(fn: Callable[[Point], Result], at: Point) -> Callable[[Point], Result]:
    """`fn`, in which whatever is `held` keeps the value that it has at `at`.

    Args:
        fn: Holds as many values at every point.
        at: Where.
    """
    if _moving:
        return fn
    values: list[Tensor] = []
    with _tape(values, None):
        fn(at)
    if not values:
        return fn

    def call(params: Point) -> Result:
        with _tape(values, 0):
            return fn(params)

    return call


@contextlib.contextmanager
def moving() -> Iterator[None]:
    """Leaves functions as they are: for what compares losses, and sees what no derivative does."""
    global _moving
    before, _moving = _moving, True
    try:
        yield
    finally:
        _moving = before


@contextlib.contextmanager
def _tape(values: list[Tensor], number: int | None) -> Iterator[None]:
    global _values, _number
    before, _values, _number = (_values, _number), values, number
    try:
        yield
    finally:
        _values, _number = before
