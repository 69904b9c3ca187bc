"""The section of docs/benchmarks.md on stochastic methods, from stochastic.csv."""

import math
import re
from pathlib import Path

import pandas as pd

TITLE, REMARKS = "## Stochastic methods, against JAX", "<!-- remarks: stochastic -->"
OURS, PEER, BEST = "ours", "JAX", "JAX, no copies"
# Of ours to JAX as it compiles by itself: what must be reached, what is bold.
TARGETS = (
    ("ijcnn1 soba", 2.0, 1.0),
    ("ijcnn1 (saba|amigo|stocbio)", 1.0, 1.0),
    (".*", math.nan, 1.0),
)
TEXT = """Microseconds of an outer step on one core: medians over chunks of many steps, CPU seconds,
without compilation. Ours is a whole run with `device.capture=compile`, from one row of train.csv to
the next; between two rows, the peers take as many steps. They are the papers' update rules in JAX
(`benchmarks/stochastic/`), in the form of benchopt/benchmark_bilevel: `lax.scan` under jit, batches
drawn in the loop, on the blocks of 64 that ours sees; float64 on ijcnn1, float32 on MNIST. Before
it is timed, each is held to ours over 20 steps in float64, to 1e-10. "No copies" is the same
program with `xla_cpu_copy_insertion_use_region_analysis`, without which XLA copies SABA's memory at
every step. The last columns are CPU seconds of compilation: of ours with an empty cache, of ours in
a second process, and of JAX."""


def renew(page: Path, table: str) -> None:
    """Puts a table of Markdown into the section of a page, whose other sections stay.

    Raises:
        ValueError: The page has no such section.
    """
    text = page.read_text()
    before, begin, rest = text.partition(f"{TITLE}\n")
    _, end, after = rest.partition(REMARKS)
    if not begin or not end:
        raise ValueError(f"{page} needs a section {TITLE!r} with remarks, got none.")
    page.write_text(f"{before}{begin}\n{TEXT}\n\n{table}\n\n{end}{after}")


def rows(folder: Path) -> list[list[str]]:
    """The table of what was measured into a folder."""
    path = folder / "stochastic.csv"
    return section(pd.read_csv(path) if path.exists() else pd.DataFrame())


def section(found: pd.DataFrame) -> list[list[str]]:
    """The table; a row for each case that was measured."""
    head = ["case", "ours", PEER, BEST, f"ours / {PEER}", "in wall", f"ours / {BEST}"]
    lines = [[*head, "must", "bold", "verdict", "first call", "second", f"{PEER}'s"]]
    for case, own in found.groupby("case", sort=False) if len(found) else ():
        steps, first = own[own["round"] > 0], own[own["round"] == 0]
        micros = {who: _micros(steps, who, "cpu") for who in (OURS, PEER, BEST)}
        ratio, in_wall = (_ratio(steps, PEER, clock) for clock in ("cpu", "wall"))
        must, bold = next(given for pattern, *given in TARGETS if re.fullmatch(pattern, str(case)))
        bounds = ["" if math.isnan(bound) else f"{bound:.2f}" for bound in (must, bold)]
        compiled = [
            _compiled(first, steps, OURS, "first"),
            _compiled(first, steps, OURS, "second"),
            _compiled(first, steps, PEER, "first"),
        ]
        lines.append(
            [
                str(case),
                *(f"{micros[who]:.1f}" for who in micros),
                *(f"{number:.2f}" for number in (ratio, in_wall, _ratio(steps, BEST, "cpu"))),
                *bounds,
                _verdict(ratio, must, bold),
                *("-" if math.isnan(seconds) else f"{seconds:.1f}" for seconds in compiled),
            ]
        )
    return lines


def _verdict(ratio: float, must: float, bold: float) -> str:
    if ratio <= bold:
        return "bold"
    if math.isnan(must):
        return ""
    return "reached" if ratio <= must else "missed"


def _micros(steps: pd.DataFrame, who: str, clock: str) -> float:
    own = steps[steps.implementation == who]
    return float((own[clock] / own.steps).median() * 1e6)


def _ratio(steps: pd.DataFrame, peer: str, clock: str) -> float:
    """The median over chunks of the ratio of ours to a peer's, which came right after it."""
    seconds = steps.pivot(index=["call", "round"], columns="implementation", values=clock)
    return float((seconds[OURS] / seconds[peer]).median())


def _compiled(first: pd.DataFrame, steps: pd.DataFrame, who: str, call: str) -> float:
    """CPU seconds of the first chunk, without those of its steps."""
    chosen = first[(first.implementation == who) & (first.call == call)]
    if chosen.empty:
        return math.nan
    return float((chosen.cpu - chosen.steps * _micros(steps, who, "cpu") / 1e6).iloc[0])
