"""A sweep of many jobs: what comes before the first of them, and what it costs to run it again.

    python -m benchmarks sweep --jobs 200
    python -m benchmarks sweep --jobs 200 --before PATH   # and by another checkout, in turn

CPU seconds of the command's own process, so that whatever else the machine does counts little.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import results

# One small step each: what is measured is around it.
JOB = ("task=quadratic", "method=reverse", "device=cpu", "device.threads=1", "outer_steps=1")
SMALL = ("inner_steps=2", "task.inner_dim=3")
# Megabytes at most. A process begins with the getrusage of the one that launched it.
PEAK = """
import re
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1e3
"""
# In the command's process: the CPU seconds at the first job, and none of the jobs.
FIRST = (
    PEAK
    + """
import sys, time
from bilevel_cli.commands import run
from bilevel_cli.sweeps import worker

def first(*_):
    print("cpu", time.process_time(), peak(), flush=True)
    raise KeyboardInterrupt

worker.carry_out = first
run.main()
"""
)
WHOLE = (
    PEAK
    + """
import atexit, time
atexit.register(lambda: print("cpu", time.process_time(), peak(), flush=True))
from bilevel_cli.commands import run
run.main()
"""
)


def run(folder: Path, jobs: int, before: Path | None, rounds: int = 1) -> None:
    """Writes sweep.csv: CPU seconds and wall seconds of each part, for this checkout and another.

    Args:
        folder: Where it goes.
        jobs: Of the sweep.
        before: A checkout to compare with; None for none.
        rounds: Times that each part is measured.
    """
    path = folder / "sweep.csv"
    path.unlink(missing_ok=True)
    here = Path(__file__).parents[1]
    trees = {"before": before.absolute(), "now": here} if before else {"now": here}
    with tempfile.TemporaryDirectory() as made:
        done = Path(made) / "done"
        command(here, WHOLE, done, jobs)  # the jobs themselves, once
        for number in range(rounds):
            for name, tree in trees.items():
                fresh = Path(made) / f"{name}{number}"
                for what, program, where in (
                    ("until the first job", FIRST, fresh),
                    ("all jobs completed, again", WHOLE, done),
                ):
                    since = time.perf_counter()
                    cpu, megabytes = command(tree, program, where, jobs)
                    wall = time.perf_counter() - since
                    facts = {"checkout": name, "what": what, "jobs": jobs, "round": number}
                    results.append(path, **facts, cpu=cpu, wall=wall, megabytes=megabytes)


def command(tree: Path, program: str, folder: Path, jobs: int) -> tuple[float, float]:
    """CPU seconds and the most megabytes of a sweep's own process.

    Args:
        tree: The checkout.
        program: `FIRST` or `WHOLE`.
        folder: Of the sweep.
        jobs: How many it has.
    """
    seeds = f"seed={','.join(map(str, range(jobs)))}"
    words = ["-m", *JOB, *SMALL, seeds, f"hydra.sweep.dir={folder}"]
    ended = subprocess.run(
        [sys.executable, "-c", program, *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=tree,  # whose package Python then finds first
        env={**os.environ, "PYTHONPATH": str(tree)},
    )
    found = re.search(r"^cpu (\S+) (\S+)$", ended.stdout, re.MULTILINE)
    if not found:
        raise RuntimeError(ended.stderr[-1000:] or ended.stdout[-1000:])
    return float(found[1]), float(found[2])
