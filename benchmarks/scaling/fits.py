"""Exponents of the points of a ladder, and what a method says to them."""

import math
from pathlib import Path
from typing import NamedTuple

import pandas as pd

# The slope between two sizes 4 apart is wrong by 0.07 where one of two times is wrong by a tenth:
# 1.1 is 1 with that.
MOST = 1.1
NOISE = 0.2  # of a measured exponent beyond a declared one, where caches of the processor end too
SMALL = 8.0  # megabytes, to which what a process asks its system for is good to a tenth
WORK = ("rows", "inner")  # sizes with which each gradient and each product grows


class Fit(NamedTuple):
    """How time and memory of something grow along one size.

    Attributes:
        of: The method, or the command.
        along: What grows.
        largest: The largest size that was measured.
        cpu: CPU seconds there.
        megabytes: There.
        time: Exponent of the CPU seconds; NaN where fewer than two sizes were measured.
        memory: Exponent of the megabytes; NaN, too, where they are few.
        time_reason: Why the exponent of time is above `MOST`; empty where it is not, or nobody
            says.
        memory_reason: Likewise.
        ended: What ended the ladder, if not its last size: the outcome and what was said.
    """

    of: str
    along: str
    largest: int
    cpu: float
    megabytes: float
    time: float
    memory: float
    time_reason: str
    memory_reason: str
    ended: str


def read(folder: Path) -> list[Fit]:
    """One for each ladder of the points.csv in a folder."""
    points = pd.read_csv(folder / "points.csv")
    return [_fit(ladder) for _, ladder in points.groupby(["of", "along"], sort=False)]


def _fit(ladder: pd.DataFrame) -> Fit:
    good = ladder[ladder["outcome"] == "measured"]
    others = ladder[ladder["outcome"] != "measured"]
    of, along = str(ladder["of"].iloc[0]), str(ladder["along"].iloc[0])
    ended = ""
    if len(others):
        row = others.iloc[-1]
        said = "" if pd.isna(row["what"]) else f": {row['what']}"
        ended = f"{row['outcome']} at {row['size']}{said}"
    if len(good) < 2:
        last = good.iloc[-1] if len(good) else {"size": 0, "cpu": math.nan, "megabytes": math.nan}
        known = (int(last["size"]), float(last["cpu"]), float(last["megabytes"]))
        return Fit(of, along, *known, math.nan, math.nan, "", "", ended)
    before, last = good.iloc[-2], good.iloc[-1]
    factor = last["size"] / before["size"]

    def slope(column: str) -> float:
        return math.log(max(last[column], 1e-9) / max(before[column], 1e-9)) / math.log(factor)

    time, memory = slope("cpu"), slope("megabytes")
    if min(last["megabytes"], before["megabytes"]) < SMALL:
        memory = math.nan
    what = "" if pd.isna(last["what"]) else str(last["what"])
    calls = slope("calls") + (1.0 if along in WORK else 0.0)
    holds = slope("numbers")
    time_reason = memory_reason = ""
    if time > MOST and calls >= time - NOISE:
        time_reason = f"{last['calls']:.0f} gradients and products, {before['calls']:.0f} before"
    elif time > MOST and slope("gradient") + slope("calls") >= time - NOISE:
        time_reason = f"one gradient alone has {slope('gradient'):.2f}: its rows leave the caches"
    elif time > MOST and holds > MOST:
        time_reason = f"it computes with {what}"
    if memory > MOST and holds >= memory - NOISE:
        memory_reason = what
    known = (int(last["size"]), float(last["cpu"]), float(last["megabytes"]))
    return Fit(of, along, *known, time, memory, time_reason, memory_reason, ended)


def missed(fit: Fit) -> bool:
    """Whether an exponent is above `MOST`, and nobody says why."""
    return bool(
        (fit.time > MOST and not fit.time_reason) or (fit.memory > MOST and not fit.memory_reason)
    )
