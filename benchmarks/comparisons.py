"""How often intervals hold, and how often equal methods are called different, for docs/report.md.

Scores with known means are given to the functions that a report calls. `before` is what reports
did until version 0.5: Student's interval for a mean; a percentile bootstrap for an interquartile
mean, and for the difference of each row to the best, by itself.
"""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from bilevel_cli.report.compare import scales, statistics

Numbers = NDArray[np.float64]

SEEDS = (3, 5, 10)
SHARED = 0.5  # correlation of methods over seeds, which have data and start in common
FAMILIES = 20_000
RESAMPLED = 2_000  # families that are given to the bootstrap, which takes longer
RESAMPLES = 1_000
APART = np.array([0.0, 0.5, 1.0, 1.5, 2.0])  # of methods that differ, in deviations
TOGETHER = f"differences of {len(APART)} methods, all at once"
PAGE, BEGIN, END = Path("docs/report.md"), "<!-- simulated -->", "<!-- end of simulated -->"
TABLE = Path("docs/measured/comparisons.csv")
GRID = ndtri((np.arange(200_000) + 0.5) / 200_000)  # standard normal numbers, evenly probable


class Scores(NamedTuple):
    """A distribution of scores of which more is better.

    Attributes:
        of: The score of a standard normal number, increasing.
        within: The least and the most that it can be.
    """

    of: Callable[[Numbers], Numbers]
    within: tuple[float, float]

    def mean(self, shift: float = 0.0, iqm: bool = False) -> float:
        """The mean, or interquartile mean, where the normal number is smaller by `shift`."""
        kept = GRID[len(GRID) // 4 : 3 * len(GRID) // 4] if iqm else GRID
        return float(self.of(kept - shift).mean())


KINDS = {
    "normal": Scores(lambda z: z, (-np.inf, np.inf)),
    "in [0, 1], near 1": Scores(lambda z: ndtr(z) ** (1 / 20), (0.0, 1.0)),  # beta of 20 and 1
    "skewed, above 0": Scores(np.exp, (0.0, np.inf)),  # lognormal
}


def drawn(kind: str, families: int, seeds: int, shifts: Numbers, shared: float = SHARED) -> Numbers:
    """Scores of shape families x methods x seeds, the same at every call.

    Args:
        kind: A name of `KINDS`.
        families: How many.
        seeds: Of each method.
        shifts: By how much each method is worse, in deviations.
        shared: Correlation of methods over seeds.
    """
    numbers = np.random.default_rng([len(shifts), seeds])
    common = numbers.standard_normal((families, 1, seeds))
    own = numbers.standard_normal((families, len(shifts), seeds))
    scores = np.sqrt(shared) * common + np.sqrt(1 - shared) * own
    return KINDS[kind].of(scores - shifts[:, None])


def called_worse(kind: str, scores: Numbers, in_pairs: bool = True, chosen: bool = True) -> float:
    """In what part of families a report calls a method worse than the best.

    Args:
        kind: A name of `KINDS`.
        scores: As of `drawn`.
        in_pairs: Whether seeds are common.
        chosen: Whether it is corrected for the best having been chosen, as reports do.
    """
    low, high = KINDS[kind].within
    best = scores.mean(axis=-1).argmax(axis=-1)
    near = np.median(scales.nearness(scores, low, high), axis=-1) > scales.NEAR
    skewed = scales.LOGITS if np.isfinite(high) else scales.LOGARITHMS
    test = statistics.paired if in_pairs else statistics.unpaired
    p_values = np.where(
        near[:, None],
        _p(scores, best, skewed, test) if near.any() else 1,
        _p(scores, best, scales.PLAIN, test),
    )
    found = 0
    for row, place in zip(p_values, best, strict=True):
        others = np.delete(row, place)
        found += any(others <= statistics.holm(list(others), chosen))
    return found / len(scores)


def _p(
    scores: Numbers,
    best: NDArray[np.intp],
    scale: scales.Scale,
    test: Callable[[Numbers, Numbers], statistics.Measured],
) -> Numbers:
    free = scale.free(scores)
    of_best = np.take_along_axis(free, best[:, None, None], axis=1)
    return test(np.broadcast_to(of_best, free.shape), free).p()


def called_worse_before(scores: Numbers) -> float:
    """The same of the percentile bootstrap of each difference by itself."""
    best = scores.mean(axis=-1).argmax(axis=-1)
    of_best = np.take_along_axis(scores, best[:, None, None], axis=1)
    low, high = resampled(of_best - scores)
    return float(((low > 0) | (high < 0)).any(axis=-1).mean())


def resampled(values: Numbers, iqm: bool = False) -> tuple[Numbers, Numbers]:
    """The 95 % percentile bootstrap interval of the mean of each sample along the last axis."""
    seeds = values.shape[-1]
    draws = np.random.default_rng(0).integers(0, seeds, (RESAMPLES, seeds))
    ends = [
        np.quantile(statistics.location(one[..., draws], iqm).value, [0.025, 0.975], axis=-1)
        for one in values
    ]
    low, high = np.moveaxis(np.array(ends), 1, 0)
    return low, high


def coverage(
    kind: str, seeds: int, iqm: bool, before: bool, samples: int = FAMILIES
) -> tuple[float, float]:
    """In what part of samples the interval of a mean contains it, and the median of its width."""
    of = KINDS[kind]
    values = drawn(kind, samples, seeds, np.zeros(1))[:, 0]
    if before and iqm:
        low, high = resampled(values[:RESAMPLED], iqm)
    else:
        within = (-np.inf, np.inf) if before else of.within
        low, high = statistics.bounded(statistics.location(values, iqm), *within)
    true = of.mean(iqm=iqm)
    return float(((low <= true) & (true <= high)).mean()), float(np.median(high - low))


def all_right(kind: str, seeds: int, families: int, higher: bool = True) -> float:
    """In what part of families of methods apart all intervals of a report contain the difference.

    The interval of a method is that of its difference to the method that came out best.
    """
    of, found = KINDS[kind], 0
    shifts = APART if higher else -APART
    true = np.array([of.mean(shift) for shift in shifts])
    for family in drawn(kind, families, seeds, shifts):
        means = family.mean(axis=-1)
        best = int(means.argmax() if higher else means.argmin())
        scale = scales.scale_of(list(family), *of.within)
        others = [place for place in range(len(APART)) if place != best]
        leader = dict(enumerate(family[best]))
        apart = [
            statistics.difference(dict(enumerate(family[place])), leader, scale=scale)
            for place in others
        ]
        known = [one for one in apart if one is not None]
        limits = statistics.holm([one.p for one in known], chosen=True)
        found += all(
            one.interval(1 - limit)[0] <= true[place] - true[best] <= one.interval(1 - limit)[1]
            for one, limit, place in zip(known, limits, others, strict=True)
        )
    return found / families


def false_positives() -> list[list[str]]:
    """Of 100 families of equal methods, in how many one is called worse: before, now."""
    rows = []
    for kind in KINDS:
        for methods in (2, 5, 10):
            cells = []
            for seeds in SEEDS:
                scores = drawn(kind, FAMILIES, seeds, np.zeros(methods))
                old = called_worse_before(scores[:RESAMPLED])
                cells.append(f"{100 * old:.0f}, {100 * called_worse(kind, scores):.1f}")
            rows.append([kind, f"{methods}", *cells])
        apart = [drawn(kind, FAMILIES, seeds, np.zeros(2), shared=0.0) for seeds in SEEDS]
        cells = [f"-, {100 * called_worse(kind, scores, in_pairs=False):.1f}" for scores in apart]
        rows.append([kind, "2, no common seed", *cells])
    return [["scores", "equal methods", *(f"{seeds} seeds" for seeds in SEEDS)], *rows]


def coverages() -> list[list[str]]:
    """Of 100 intervals, how many hold, with their widths: before, now."""
    rows = []
    for kind in KINDS:
        for iqm in (False, True):
            cells = []
            for seeds in SEEDS:
                (old, wide), (new, wider) = (
                    coverage(kind, seeds, iqm, before) for before in (True, False)
                )
                cells.append(f"{100 * old:.0f}, {100 * new:.1f} ({wider / wide:.2f})")
            rows.append([kind, "interquartile mean" if iqm else "mean", *cells])
        rows.append([kind, TOGETHER, *differences(kind, higher=True)])
    rows.append([kind, f"{TOGETHER}, less is better", *differences(kind, higher=False)])
    return [["scores", "interval of", *(f"{seeds} seeds" for seeds in SEEDS)], *rows]


def differences(kind: str, higher: bool) -> list[str]:
    """Of 100 families of methods apart, in how many all intervals hold: -, now."""
    return [f"-, {100 * all_right(kind, seeds, RESAMPLED, higher):.1f}" for seeds in SEEDS]


def write() -> None:
    """Writes both tables into docs/report.md, and as they are into docs/measured/."""
    tables = {"false positives": false_positives(), "coverage": coverages()}
    with TABLE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        for name, rows in tables.items():
            writer.writerows([name, *row] for row in rows)
    called, held = (_markdown(rows) for rows in tables.values())
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"{PAGE} needs the lines {BEGIN} and {END}, between which tables go.")
    text = f"{before}{BEGIN}\n{CALLED}\n\n{called}\n\n{HELD}\n\n{held}\n{END}{after}"
    PAGE.write_text(text, encoding="utf-8")
    print(f"{called}\n\n{held}")


CALLED = (
    "Of 100 families of methods that are all equal, in how many one is called worse than the best: "
    "before, and **now**."
)
HELD = (
    "Of 100 intervals at 95 %, how many contain the true value: before, and **now**; in brackets, "
    "how many times as wide the median interval is now."
)


def _markdown(rows: list[list[str]]) -> str:
    head, *body = rows
    bold = [[*row[:2], *(_bold(cell) for cell in row[2:])] for row in body]
    lines = [head, ["---"] * len(head), *bold]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _bold(cell: str) -> str:
    old, _, new = cell.partition(", ")
    number, _, width = new.partition(" ")
    return f"{old}, **{number}** {width}".rstrip()


if __name__ == "__main__":
    write()
