"""docs/scaling.md from the points alone; the remarks in it are kept."""

import math
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from benchmarks.report import markdown
from benchmarks.scaling import fits
from benchmarks.scaling.fits import Fit
from benchmarks.scaling.ladders import FIRST, FIXED
from benchmarks.scaling.points import MEMORY

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "pictures" / "scaling.py"
NAMES = {
    **{"rows": "rows", "inner": "inner parameters", "outer": "outer parameters"},
    **{"steps": "inner steps", "episodes": "episodes", "replicas": "replicas"},
    **{"jobs": "jobs of a sweep", "report": "runs of a report"},
}
REMARKS = ("<!-- remarks -->", "<!-- end of remarks -->")


def write(folder: Path, page: Path) -> None:
    """Writes the page and its picture.

    Args:
        folder: With points.csv and machine.csv, and sweep.csv where there is one.
        page: Where to. Its remarks, between comments, are kept.
    """
    found = fits.read(folder)
    machine = pd.read_csv(folder / "machine.csv").iloc[-1]
    of_methods = [fit for fit in found if fit.along in FIXED]
    around = [fit for fit in found if fit.along not in FIXED]
    picture = page.parent / (
        "pictures/scaling.svg" if page.parent.name == "docs" else "scaling.svg"
    )
    drawn = [sys.executable, str(PICTURE), str(folder / "points.csv"), str(picture)]
    subprocess.run(drawn, check=True)
    shown = picture.relative_to(page.parent)
    old = page.read_text() if page.exists() else ""
    kept = re.search(f"{REMARKS[0]}(.*?){REMARKS[1]}", old, re.DOTALL)
    sections = [
        INTRODUCTION.format(**_facts(machine)),
        "## Ten times and a hundred times as much",
        TEN,
        markdown(_tens(found)),
        f"{REMARKS[0]}{kept.group(1) if kept else chr(10)}{REMARKS[1]}",
        "## On more than one machine",
        BEYOND,
        "## What grows with what",
        f"![CPU seconds and megabytes of an estimate against four sizes, by method]({shown})",
        GROWS.format(**_sizes()),
        markdown(_exponents(of_methods)),
        "## Above 1.1, and why",
        ABOVE,
        markdown(_above(found)),
        "## Where a ladder ended early",
        ENDED,
        markdown(_ended(found)),
        "## Around an estimate",
        AROUND,
        markdown(_around(around)),
    ]
    if (folder / "sweep.csv").exists():
        sections += [SWEEP, markdown(_sweep(pd.read_csv(folder / "sweep.csv")))]
    page.write_text("\n\n".join(sections) + "\n")
    print(f"Wrote {page} and {picture}")


INTRODUCTION = """# How cost grows

What to expect of a problem ten or a hundred times as large: the exponents of time and memory along
every size, measured for every method. At an exponent of 1, twice the size takes twice as much.

```sh
make scaling          # writes this page anew, in 20 minutes of two cores
make scaling-quick    # two minutes, smaller sizes; into outputs/benchmarks_scaling_quick
```

Measured on {date}: {processor}, torch {torch}, sizes: {size}, one thread a point, load {load} at
the end. CPU seconds, not seconds of the clock. Each point is a process of its own, which may ask
for {memory} GB."""

TEN = """Times as much as now, for the method in the middle and for the most expensive one: the
exponents of the table below, carried on from the largest size that was measured."""

BEYOND = """One estimate stays on one machine, or on the processes that
[share a run](devices.md). What spreads over machines is whole runs:
[a sweep](sweeps.md#where-the-jobs-run) is an array of jobs on a cluster, and its cost before the
first job is in the last table of this page. Where a problem does not fit into the memory of one
machine, take minibatches (`task.batch_size`), lower what the method says that its memory grows
with, or choose a method whose memory does not: a run that cannot fit says so, and says which,
before any work."""

GROWS = """A linear regression with {rows} rows, {inner} inner parameters, {outer} outer parameters
and {steps} inner steps, of which one grows by fours. An exponent is the slope between the two
largest sizes: CPU seconds, then megabytes. An error of a tenth in one of two times is one of 0.07
in the exponent: 1.1 is 1 with the noise. A dash: below {small:.0f} MB at one of them, which is too
little to tell, or a ladder without two sizes."""

ABOVE = """The reasons are those of the methods: the gradients and products that they take, and the
most of what they hold. `make scaling` fails where nothing declared explains an exponent."""

ENDED = """A refusal comes before any work. Out of memory: torch could not have more, and a run
ends with advice. Failed: anything else, such as a process that was killed."""

AROUND = """Of whole runs, or of commands with their start-up: what a user waits for. Jobs: until
the first of them begins. A report: `bilevel-report` on so many runs."""

SWEEP = "The same sweep by its parts; `python -m benchmarks sweep` writes this."


def _facts(machine: "pd.Series[str]") -> dict[str, object]:
    names = {"load": "load_at_start"}
    facts = {
        name: machine[names.get(name, name)]
        for name in ("date", "processor", "torch", "size", "load")
    }
    return {**facts, "memory": MEMORY >> 30}


def _sizes() -> dict[str, object]:
    return {**FIXED, **{f"first_{name}": size for name, size in FIRST.items()}, "small": fits.SMALL}


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _exponents(found: Sequence[Fit]) -> list[list[str]]:
    table = [["method", *(f"{NAMES[along]}: time, memory" for along in FIXED)]]
    for method in dict.fromkeys(fit.of for fit in found):
        of = {fit.along: fit for fit in found if fit.of == method}
        cells = [
            f"{_number(of[a].time)}, {_number(of[a].memory)}" if a in of else "" for a in FIXED
        ]
        table.append([f"`method={method}`", *cells])
    return table


def _above(found: Sequence[Fit]) -> list[list[str]]:
    table = [["of", "along", "what", "exponent", "because"]]
    for fit in found:
        for what, value, why in (
            ("time", fit.time, fit.time_reason),
            ("memory", fit.memory, fit.memory_reason),
        ):
            if value > fits.MOST:
                table.append(
                    [fit.of, NAMES[fit.along], what, _number(value), why or "not explained"]
                )
    return table if len(table) > 1 else [*table, ["nothing", "", "", "", ""]]


def _ended(found: Sequence[Fit]) -> list[list[str]]:
    table = [["of", "along", "largest measured", "then"]]
    table += [[f.of, NAMES[f.along], str(f.largest), f.ended] for f in found if f.ended]
    return table if len(table) > 1 else [*table, ["nothing", "", "", ""]]


def _around(found: Sequence[Fit]) -> list[list[str]]:
    table = [["of", "number", "CPU seconds", "MB", "time", "memory"]]
    for fit in found:
        known = [f"{fit.cpu:.2f}", f"{fit.megabytes:.0f}", _number(fit.time), _number(fit.memory)]
        table.append([NAMES[fit.along], str(fit.largest), *known])
    return table


def _tens(found: Sequence[Fit]) -> list[list[str]]:
    table = [["", "time x10", "the most", "time x100", "memory x10", "the most", "memory x100"]]
    for along, name in NAMES.items():
        of = [fit for fit in found if fit.along == along]
        cells: list[str] = []
        for value in (lambda fit: fit.time, lambda fit: fit.memory):
            cells += _carried(of, value)
        table.append([name, *cells])
    return table


def _carried(of: Sequence[Fit], value: Callable[[Fit], float]) -> list[str]:
    known = [fit for fit in of if not math.isnan(value(fit))]
    if not known:
        return ["-", "-", "-"]
    middle = max(0.0, statistics.median(map(value, known)))
    most = max(known, key=value)
    worst = f"{10 ** value(most):.3g} ({most.of})"
    return [f"{10**middle:.3g}", worst, f"{100**middle:.3g}"]


def _sweep(rows: pd.DataFrame) -> list[list[str]]:
    table = [["", "jobs", "CPU seconds", "of a job", "seconds"]]
    for (checkout, what), of in rows.groupby(["checkout", "what"], sort=False):
        best = of.loc[of["cpu"].idxmin()]
        numbers = [f"{best['cpu']:.2f}", f"{best['cpu'] / best['jobs']:.3f}", f"{best['wall']:.1f}"]
        table.append([f"{what}, {checkout}", str(best["jobs"]), *numbers])
    return table
