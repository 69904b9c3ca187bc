"""What it takes to reproduce one experiment."""

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reproductions.results import Results

ITEMS = Path(__file__).parent / "items"

DERIVED = "derived here"  # recomputed independently of this project's code; see the page
THEORY = "theory"


@dataclass(frozen=True)
class Run:
    """A run of `bilevel-run`.

    Args:
        name: Of its folder.
        overrides: As typed on the command line.
        quick: Whether `quick` runs it too.
    """

    name: str
    overrides: str
    quick: bool = True

    @property
    def command(self) -> list[str]:
        return [*self.overrides.split(), "device=cpu", "device.threads=1"]


@dataclass(frozen=True)
class Expected:
    """The interval in which a reproduced number lies, both ends excluded.

    Args:
        low: Its lower end.
        high: Its upper end.
        published: The number that was published or derived, as the page shows it.
        tolerance: As the page shows it.
    """

    low: float
    high: float
    published: str
    tolerance: str


def near(value: float, tolerance: float) -> Expected:
    """`value`, to within `tolerance`."""
    return Expected(value - tolerance, value + tolerance, f"{value:.5g}", f"± {tolerance:.2g}")


def below(bound: float, published: str = "") -> Expected:
    return Expected(-math.inf, bound, published or f"< {bound:.4g}", f"< {bound:.4g}")


def above(bound: float, published: str = "") -> Expected:
    return Expected(bound, math.inf, published or f"> {bound:.4g}", f"> {bound:.4g}")


def between(low: float, high: float, published: str) -> Expected:
    return Expected(low, high, published, f"{low:.4g} to {high:.4g}")


@dataclass(frozen=True)
class Row:
    """One number, held to what is known of it.

    Args:
        quantity: What it is.
        expected: Where it should lie.
        source: Who says so: a figure or table of the paper, `DERIVED`, or `THEORY`.
        ours: What was found; NaN where nothing was run, infinite where a run diverged.
        reason: What is known of why it differs, shown where it does.
    """

    quantity: str
    expected: Expected
    source: str
    ours: float
    reason: str = ""

    @property
    def verdict(self) -> str:
        if math.isnan(self.ours):
            return "not run"
        # Both ends are excluded: a run that diverged is not "large", but infinite.
        inside = self.expected.low < self.ours < self.expected.high
        return "reproduced" if inside else "differs"

    @property
    def why(self) -> str:
        """One line on a verdict that is not a good one."""
        if self.verdict == "not run":
            return "part of `make reproduce`"
        return self.reason or "reason not known" if self.verdict == "differs" else ""


@dataclass(frozen=True)
class Figure:
    """A figure of the page.

    Args:
        name: Of its file.
        caption: What it shows.
        draw: Draws it from the results, on a matplotlib figure.
    """

    name: str
    caption: str
    draw: Callable[[Results, Any], None]


@dataclass(frozen=True)
class Table:
    """A table of the page besides the comparison.

    Args:
        caption: What it shows.
        cells: Its lines, the head first.
    """

    caption: str
    cells: Callable[[Results], list[list[str]]]


@dataclass(frozen=True)
class Item:
    """One experiment.

    Args:
        order: Its place on the page.
        title: What was claimed, and where.
        about: What is run.
        open: What could not be reproduced, and why.
        runs: Its runs.
        rows: The comparison, from the results.
        figures: Its figures.
        tables: Its tables.
        measure: A numeric experiment besides the runs, in float64 and without autograd: writes CSV
            files into the folder given.
    """

    order: int
    title: str
    about: str
    open: str
    runs: tuple[Run, ...]
    rows: Callable[[Results], list[Row]]
    figures: tuple[Figure, ...]
    tables: tuple[Table, ...] = ()
    measure: Callable[[Path], None] | None = None


def items() -> dict[str, Item]:
    """All items by the stems of their files, in the order of the page."""
    found: dict[str, Item] = {
        path.stem: importlib.import_module(f"reproductions.items.{path.stem}").ITEM
        for path in ITEMS.glob("[!_]*.py")
    }
    return dict(sorted(found.items(), key=lambda pair: pair[1].order))
