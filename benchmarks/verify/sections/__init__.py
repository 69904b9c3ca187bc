"""The sections of the page, found by globbing.

A file defines

    TITLE      what the page calls it, and ABOUT, a sentence about it
    ORDER      its place on the page
    SECONDS    the longest that it may take
    ALONE      whether it measures time, so that nothing else may run beside it
    HARDWARE   whether a simulated device shows nothing of it; it is run all the same, in small
    items(given)          the names of what it checks
    check(given, item)    checks one of them
    summary(rows)         a sentence on what all of them show together, or none
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from benchmarks.verify.rows import Given, Row


class Section(Protocol):
    """A module of this folder."""

    TITLE: str
    ABOUT: str
    ORDER: int
    SECONDS: float
    ALONE: bool
    HARDWARE: bool

    def items(self, given: Given) -> Sequence[str]:
        """The names of what is checked, in the order in which it is tried."""

    def check(self, given: Given, item: str) -> Row:
        """Checks one of them. Whatever it raises is told as its failure."""

    def summary(self, rows: Sequence[Row]) -> str:
        """What the rows show together."""


def names() -> list[str]:
    """The names of all sections."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))


def load(name: str) -> Section:
    """A section by the name of its file."""
    found: Section = importlib.import_module(f"{__name__}.{name}")
    return found
