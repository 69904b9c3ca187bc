"""The bar of a run in a sweep, behind what the sweep says of itself: both in one line."""

import functools
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

LEAST = 30  # columns that the bar keeps, however much the sweep says
ROOM = len(", about 2 h 10 min left: ")  # columns that the text is yet to need


def behind(text: Callable[[], str]) -> Callable[..., "tqdm[Any]"]:
    """What makes such bars, as `runs.progress.Progress` asks for them.

    Args:
        text: What to say before the bar; asked whenever the bar is drawn.
    """
    return functools.partial(_Behind, text=text)


class _Behind(tqdm):  # type: ignore[type-arg] # which it takes for type checkers alone
    """A bar of tqdm's with a text before it.

    Args:
        text: As of `behind`.
        given: Of tqdm.
    """

    def __init__(self, *, text: Callable[[], str], **given: Any) -> None:
        self._text = text
        self._room = len(text()) + ROOM
        super().__init__(**given)

    @property
    def format_dict(self) -> Any:
        """With the columns that the text leaves."""
        found = super().format_dict
        columns = found.get("ncols")
        self._room = max(self._room, len(self._before(columns)))
        return {**found, "ncols": columns and max(LEAST, columns - self._room)}

    def __str__(self) -> str:
        return self._before(super().format_dict.get("ncols")) + super().__str__()

    def _before(self, columns: int | None) -> str:
        text = f"{said}: " if (said := self._text()) else ""
        return text if columns is None else text[: max(0, columns - LEAST)]
