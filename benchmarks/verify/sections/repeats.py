"""Runs that are told to repeat: two of one seed, and one that was stopped on its way."""

import signal
from collections.abc import Sequence
from pathlib import Path

from benchmarks.verify import runs
from benchmarks.verify.problems import PROBLEMS
from benchmarks.verify.rows import FAILED, PASSED, Given, Row

TITLE = "Runs repeat and go on"
ABOUT = """With `device.deterministic=true`: the tables and the last checkpoint of two runs, in
processes of their own, have the same bits."""
ORDER = 3
SECONDS = 280.0
ALONE = False
HARDWARE = False
STEPS, HALF = 16, 7
STOPS = {"stopped": signal.SIGTERM, "killed": signal.SIGKILL}
WAYS = {
    "two runs of one seed": [],
    "two runs of one seed, with a CUDA graph": ["device.capture=cuda_graph"],
    "killed behind a checkpoint, and continued": [],
    "stopped by SIGTERM, and continued": [],
}


def items(given: Given) -> Sequence[str]:
    return [f"{way}: {problem}" for problem in PROBLEMS for way in WAYS]


def check(given: Given, item: str) -> Row:
    way, _, problem = item.partition(": ")
    base = given.folder("runs", str(items(given).index(item)))
    often = ["seed=1", "log_every=1", "eval_every=8", "save_every=5", "device.deterministic=true"]
    settings = [*PROBLEMS[problem].overrides(given), *often, *WAYS[way]]
    whole = [*settings, f"outer_steps={STEPS}"]
    one, other = base / "one", base / "other"
    first = runs.start(given, one, whole)
    for word, signum in STOPS.items():
        if way.startswith(word):
            runs.stop(runs.start(given, other, whole), other, HALF, signum)
    runs.finish(runs.start(given, other, whole))
    runs.finish(first)
    return compared(item, one, other)


def compared(item: str, one: Path, other: Path) -> Row:
    """The row of two runs that should be alike."""
    found = runs.differences(one, other)
    return Row(
        item,
        FAILED if found else PASSED,
        f"They differ in {'; '.join(found)}"[:300] if found else "",
    )


def summary(rows: Sequence[Row]) -> str:
    alike = sum(row.state == PASSED for row in rows)
    return f"{alike} of {len(rows)} pairs of runs are alike bit for bit."
