"""What faster products cost the hypergradient, as metrics=[precision_gap] measures it."""

from collections.abc import Sequence

from omegaconf import OmegaConf

import bilevel_cli
from benchmarks.verify.problems import PROBLEMS
from benchmarks.verify.rows import FAILED, PASSED, Given, Row
from bilevel_cli.config.options import CONF

TITLE = "Precision gap"
ABOUT = """The relative error |g - r| / |r| of the hypergradient g against r, whose products are all
in float32, as `metrics=[precision_gap]` measures it: the least and the largest of the rows of a
run. It has to be 0 where nothing is made faster, and below 1 where something is."""
ORDER = 4
SECONDS = 200.0
ALONE = False
HARDWARE = True
EXACT = "device.matmul_precision=highest"
COLUMN = "precision_relative_error"


def settings(problem: str) -> list[str]:
    """The settings of precision for a problem, as far as conf/device has them."""
    found = [EXACT, "device.matmul_precision=high", "device.matmul_precision=medium"]
    method = PROBLEMS[problem].first_order
    # Of second derivatives, bfloat16 leaves too little.
    if method and "precision" in OmegaConf.load(CONF / "device" / "cpu.yaml"):
        found.append(f"device.precision=bf16-mixed method={method}")
    return found


def items(given: Given) -> Sequence[str]:
    return [f"{setting}: {problem}" for problem in PROBLEMS for setting in settings(problem)]


def check(given: Given, item: str) -> Row:
    setting, _, problem = item.partition(": ")
    steps = ["outer_steps=3", "log_every=1", "eval_every=3", "save_every=1000"]
    run = bilevel_cli.run(
        *PROBLEMS[problem].overrides(given),
        *steps,
        *setting.split(),
        "metrics=[precision_gap]",
        "device.deterministic=true",
        folder=given.folder("precision") / str(items(given).index(item)),
        progress=False,
    )
    return judged(item, [float(gap) for gap in run.train[COLUMN]], exact=setting == EXACT)


def judged(item: str, gaps: Sequence[float], exact: bool) -> Row:
    """The row of the gaps of a run.

    Args:
        item: Its name.
        gaps: One of each outer step.
        exact: Whether all products are in float32: then the gap is 0.
    """
    figures = {"least gap": min(gaps), "largest gap": max(gaps)}
    if exact and max(gaps) > 0:
        return Row(item, FAILED, "Products in float32 gave other numbers when repeated.", figures)
    if not all(gap < 1 for gap in gaps):  # nor NaN
        return Row(item, FAILED, "No digit of the hypergradient is left.", figures)
    if not exact and max(gaps) == 0:
        return Row(
            item, PASSED, "The setting changed nothing: this GPU has no faster products.", figures
        )
    return Row(item, PASSED, "", figures)


def summary(rows: Sequence[Row]) -> str:
    return ""
