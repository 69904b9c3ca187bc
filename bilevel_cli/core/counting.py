"""How many parts of a long computation are done, for whoever asked to be told."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar, Token
from typing import TypeVar

Part = TypeVar("Part")
Listener = Callable[[int, int], None]  # parts done, and all parts

# A thread begins without a listener: parts of a part are not counted.
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextlib.contextmanager
def told(listener: Listener) -> Iterator[None]:
    """Has `counted` tell `listener` within the context, in the thread that entered it."""
    before = tell(listener)
    try:
        yield
    finally:
        untell(before)


def tell(listener: Listener) -> Token[Listener | None]:
    """As `told` where it begins: what is returned is for `untell`. For what is done often."""
    return _listener.set(listener)


def untell(before: Token[Listener | None]) -> None:
    """As `told` where it ends."""
    _listener.reset(before)


def counted(parts: Iterable[Part], count: int) -> Iterator[Part]:
    """`parts`, each of which is told of when it is there.

    Args:
        parts: Computed as they are asked for.
        count: How many they are.
    """
    listener = _listener.get()
    for number, part in enumerate(parts, 1):
        if listener is not None:
            listener(number, count)
        yield part
