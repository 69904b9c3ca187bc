"""Who stands where in a plot: panels, the order of the legend, and which curves are in front.

A plot of three curves needs none of this. Of forty, five are drawn in their colours and the others
in grey behind them; of four tasks, each has a panel of its own, since their scores have no common
scale.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from bilevel_cli.report.compare import configurations
from bilevel_cli.report.compare.comparison import Report
from bilevel_cli.report.compare.configurations import Configuration, text
from bilevel_cli.vocabulary import ENDED_BADLY

FEW = 8  # curves that a reader can tell apart in one plot: up to these, all are in front
FRONT = 5  # of more, how many are in front at first
APART = ("task", "data")  # groups whose options have scores of their own


class Entry(NamedTuple):
    """An entry of the legend: the same configuration in each panel that has it.

    Attributes:
        label: Its name, without the options that name the panels.
        style: Its number in the palette.
        ranked: Whether any of its configurations has a number.
        front: Whether it is drawn in front at first.
    """

    label: str
    style: int
    ranked: bool
    front: bool


class Lineup(NamedTuple):
    """Where each configuration is drawn, and how.

    Attributes:
        panels: What the panels are called; [""] where there is one alone.
        panel: The panel of each configuration, by its position in the report.
        entry: The entry of each configuration, likewise.
        rank: The rank of each configuration in its panel, from 0.
        entries: The entries of the legend, the best first: those of least mean rank over panels.
    """

    panels: list[str]
    panel: list[int]
    entry: list[int]
    rank: list[int]
    entries: list[Entry]

    @property
    def crowded(self) -> bool:
        """Whether some curves stand behind others."""
        return not all(one.front for one in self.entries)

    def style(self, number: int) -> int:
        """The number in the palette of the configuration at a position in the report."""
        return self.entries[self.entry[number]].style

    def members(self, panel: int) -> list[int]:
        """The positions of the configurations in a panel, the best first."""
        own = [number for number, one in enumerate(self.panel) if one == panel]
        return sorted(own, key=lambda number: self.rank[number])


@lru_cache(maxsize=1)  # of one report: most parts of the page ask for it
def lineup(report: Report) -> Lineup:
    """Where each configuration of a report is drawn."""
    several = report.configurations
    titles = [_panel(one) for one in several]
    panels = list(dict.fromkeys(titles))
    panel = [panels.index(title) for title in titles]
    labels = [_label(one, title) for one, title in zip(several, titles, strict=True)]
    if panels == [""]:
        labels = [_of_survivors(one, label) for one, label in zip(several, labels, strict=True)]
    position = {id(row.configuration): place for place, row in enumerate(report.rows)}
    counted = {id(row.configuration): bool(row.values) for row in report.rows}
    placed = sorted(range(len(several)), key=lambda number: position[id(several[number])])
    rank = [0] * len(several)
    for place in range(len(panels)):
        for order, number in enumerate(n for n in placed if panel[n] == place):
            rank[number] = order

    owned: dict[str, list[int]] = {}  # names in the order of the configurations
    for number, label in enumerate(labels):
        owned.setdefault(label, []).append(number)
    # One that has no number, or is missing from a panel, counts as last there.
    sizes = [panel.count(place) for place in range(len(panels))]
    ordered = sorted(owned, key=lambda name: _mean_rank(owned[name], panel, rank, sizes))
    crowded = max(sizes, default=0) > FEW
    place_of = {name: place for place, name in enumerate(ordered)}
    styles = place_of if crowded else {name: number for number, name in enumerate(owned)}
    entries = []
    for order, name in enumerate(ordered):
        ranked = any(counted[id(several[n])] for n in owned[name])
        front = not crowded or order < FRONT
        entries.append(Entry(name, styles[name], ranked, front))
    return Lineup(panels, panel, [place_of[label] for label in labels], rank, entries)


def _panel(configuration: Configuration) -> str:
    chosen = configuration.differing
    return ", ".join(text(chosen[group]) for group in APART if group in chosen)


def _label(configuration: Configuration, panel: str) -> str:
    """The label without the options that name the panel; whole where nothing else is left."""
    parts, whole = configuration.label.split(", "), configurations.name(configuration)
    for option in panel.split(", "):
        if option in parts:
            parts.remove(option)
    return ", ".join(parts) if panel and parts else whole


def _of_survivors(configuration: Configuration, label: str) -> str:
    """The label, with how many runs are missing from the curve."""
    runs = configuration.runs
    broke = sum(run.status in ENDED_BADLY for run in runs)
    return f"{label} ({broke} of {len(runs)} broke)" if 0 < broke < len(runs) else label


def _mean_rank(
    members: Sequence[int], panel: Sequence[int], rank: Sequence[int], sizes: Sequence[int]
) -> float:
    found = list(map(float, sizes))
    for number in members:
        found[panel[number]] = float(rank[number])
    return float(np.mean(found))
