"""How many parts of a long computation are done, for whoever asked to be told."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import TypeVar

Part = TypeVar("Part")
Listener = Callable[[int, int], None]  # parts done, and all parts

# A thread begins without a listener: parts of a part are not counted.
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextlib.contextmanager
def told(listener: Listener) -> Iterator[None]:
    """Has `counted` tell `listener` within the context, in the thread that entered it."""
    before = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(before)


def counted(parts: Iterable[Part], count: int) -> Iterator[Part]:
    """`parts`, each of which is told of when it is there.

    Args:
        parts: Computed as they are asked for.
        count: How many they are.
    """
    tell = _listener.get()
    for number, part in enumerate(parts, 1):
        if tell is not None:
            tell(number, count)
        yield part
