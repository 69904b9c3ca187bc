"""What faster products cost the hypergradient, as metrics=[precision_gap] measures it."""

import math
from collections.abc import Sequence

import bilevel_cli
from benchmarks.verify.problems import PROBLEMS, Problem
from benchmarks.verify.rows import FAILED, PASSED, Given, Row
from bilevel_cli.metrics.precision_gap import COLUMN
from bilevel_cli.runs.rounding import TOLERANCE

TITLE = "Precision gap"
ABOUT = f"""The relative error |g - r| / |r| of the hypergradient g against r, whose products are
all in float32, as `metrics=[precision_gap]` measures it: the least and the largest of the rows of a
run. It has to be 0 where nothing is made faster. On hyper-cleaning, which bfloat16 costs 1 % on a
CPU, at most {TOLERANCE:g} may be lost. The other hypergradients it costs about all of their norm on
a CPU: of them the gap is told, and no bound is set."""
ORDER = 4
SECONDS = 200.0
ALONE = False
HARDWARE = True
EXACT = "device.matmul_precision=highest"
FASTER = (
    "device.matmul_precision=high",
    "device.matmul_precision=medium",
    "device.precision=bf16-mixed",
)
CLEANING = PROBLEMS["hyper-cleaning, conjugate gradient"]
# Beside the methods that take second derivatives, one that takes the difference of two gradients.
LOOKED_AT = {
    **PROBLEMS,
    "hyper-cleaning, F2SA": Problem(
        [*CLEANING.settings, "method=f2sa"], CLEANING.small, CLEANING.bounded
    ),
}


def items(given: Given) -> Sequence[str]:
    return [f"{problem}: {setting}" for problem in LOOKED_AT for setting in (EXACT, *FASTER)]


def check(given: Given, item: str) -> Row:
    name, _, setting = item.partition(": ")
    problem = LOOKED_AT[name]
    steps = ["outer_steps=3", "log_every=1", "eval_every=3", "save_every=1000"]
    run = bilevel_cli.run(
        *problem.overrides(given),
        *steps,
        setting,
        "metrics=[precision_gap]",
        "device.deterministic=true",
        folder=given.folder("precision") / str(items(given).index(item)),
        progress=False,
    )
    gaps, norms = ([float(x) for x in run.train[name]] for name in (COLUMN, "grad_norm"))
    return judged(item, gaps, norms, exact=setting == EXACT, bounded=problem.bounded)


def judged(
    item: str, gaps: Sequence[float], norms: Sequence[float], exact: bool, bounded: bool
) -> Row:
    """The row of the gaps of a run.

    Args:
        item: Its name.
        gaps: One of each outer step.
        norms: Of the hypergradients.
        exact: Whether all products are in float32: then the gap is 0.
        bounded: Whether less than what is trusted is lost, by any of the settings.
    """
    figures = {"least gap": min(gaps), "largest gap": max(gaps)}
    if not all(0 < norm < math.inf for norm in norms):
        told = f"There was no hypergradient to compare: its norm was {min(norms):g}."
        return Row(item, FAILED, told, figures)
    if not all(map(math.isfinite, gaps)):
        return Row(item, FAILED, "The hypergradient is not finite.", figures)
    if exact and max(gaps) > 0:
        return Row(item, FAILED, "Products in float32 gave other numbers when repeated.", figures)
    if max(gaps) > TOLERANCE and bounded:
        return Row(item, FAILED, f"It costs more than {TOLERANCE:g} of the norm.", figures)
    told = "" if exact or max(gaps) > 0 else "The setting changed nothing here."
    return Row(item, PASSED, told, figures)


def summary(rows: Sequence[Row]) -> str:
    return ""
