"""What messages call a table, and how they begin where it cannot be read."""

from typing import NamedTuple


class Name(NamedTuple):
    """What messages call a table.

    Attributes:
        who: The class that reads it.
        path: Its file, as the user wrote it.
    """

    who: str
    path: str


def unreadable(name: Name, reason: str) -> ValueError:
    """The error of a file that is damaged, or in another format than it should be."""
    return ValueError(f"{name.who} cannot read {name.path}: {reason}. Correct the file.")
