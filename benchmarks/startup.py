"""What a run takes besides its outer steps: two checkouts in turns, in fresh processes.

`startup` measures a command until its first row and until it has ended; `bookkeeping` measures what
an outer step takes besides the estimate of the hypergradient.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

COMMANDS = (
    ("task=ridge", "method=implicit"),
    ("task=reweight", "data=digits"),
)
# Of each the estimate is small, so that what surrounds it is seen.
STEPS = (
    ("task=convex_toy", "method=soba"),
    ("task=ridge", "method=soba"),
    ("task=reweight", "data=digits", "method=soba"),  # by Adam, whose own step is half of it
    ("task=reweight", "data=digits", "method=soba", "optimizer=sgd"),
)
FLOORS = {"import torch": "import torch", "import hydra": "import hydra.main, hydra.core.utils"}
NEVER = 1_000_000

# Notes its own seconds, and the time, where the first row of train.csv is written.
COMMAND = """
import os, sys, time
from bilevel_cli.commands import run
from bilevel_cli.records.table import Table
append = Table.append
def first(self, row):
    if self.path.name == "train.csv" and not os.path.exists(os.environ["NOTE"]):
        with open(os.environ["NOTE"], "w") as file:
            print(time.process_time(), time.time(), file=file)
    append(self, row)
Table.append = first
getattr(run, "command", run.main)()
"""

# Takes the outer steps of a run several times, whose estimate is always that of the first step, and
# prints the least seconds of a step: a clock within each step would measure itself.
RUN = """
import json, logging, sys, tempfile, time
from pathlib import Path
from hydra import compose, initialize_config_dir
from bilevel_cli.config.options import CONF
from bilevel_cli.config.resolved import resolved
from bilevel_cli.machine import compiler
compiler.defer()
from bilevel_cli.runs.build import build
logging.disable(logging.INFO)
with initialize_config_dir(str(CONF), version_base="1.3"):
    config = compose("config", sys.argv[2:])
found, steps = [], int(sys.argv[1])
for number in range(5):
    with tempfile.TemporaryDirectory() as folder:
        run = build(config, resolved(config), Path(folder), {})
        estimate, first = run.estimate, []
        def once(*given):
            if not first:
                first.append(estimate(*given))
            return first[0]
        run.estimate = once
        since = time.process_time()
        run.run()
        found.append((time.process_time() - since) / steps)
print(json.dumps(min(found)))
"""


class Took(NamedTuple):
    """Seconds of one process: to its first row, CPU and wall; and in all, CPU and wall."""

    cpu_first: float
    wall_first: float
    cpu: float
    wall: float


def startup(trees: Sequence[Path], rounds: int) -> None:
    """Prints the least CPU seconds, and the median wall seconds, of commands with one outer step.

    Args:
        trees: Two checkouts: before and after.
        rounds: Times that each command runs in each checkout; the two take turns.
    """
    print("| | to the first row: CPU s | wall s | whole: CPU s | wall s |")
    print("| --- | --- | --- | --- | --- |")
    for name, program in FLOORS.items():
        _row(name, [_process(trees[0], program) for _ in range(rounds)])
    for command in COMMANDS:
        took: list[list[Took]] = [[] for _ in trees]
        for _ in range(rounds):
            for tree, found in zip(trees, took, strict=True):
                found.append(_process(tree, COMMAND, *command, "device=cpu", "outer_steps=1"))
        for name, found in zip(("before", "after"), took, strict=True):
            _row(f"{' '.join(command)}, {name}", found)


def bookkeeping(trees: Sequence[Path], rounds: int, steps: int) -> None:
    """Prints the least CPU microseconds of an outer step besides the estimate, a row a case.

    Args:
        trees: Two checkouts: before and after.
        rounds: Processes in each checkout, which take turns; each takes the steps four times.
        steps: Outer steps.
    """
    print("| a step besides its estimate, CPU microseconds | before | after | after / before |")
    print("| --- | --- | --- | --- |")
    for case in STEPS:
        never = [f"{name}={NEVER}" for name in ("log_every", "eval_every", "save_every")]
        given = [str(steps), *case, f"outer_steps={steps}", "device=cpu", *never]
        least = [float("inf")] * len(trees)
        for _ in range(rounds):
            for number, tree in enumerate(trees):
                command = [sys.executable, "-c", RUN, *given]
                done = subprocess.run(
                    command,
                    env=_environment(tree),
                    cwd=tempfile.gettempdir(),
                    capture_output=True,
                    text=True,
                )
                if done.returncode:
                    raise RuntimeError(f"It failed in {tree}: {' '.join(given)}\n{done.stderr}")
                seconds = float(json.loads(done.stdout.splitlines()[-1]))
                least[number] = min(least[number], seconds)
        before, after = (1e6 * seconds for seconds in least)
        print(f"| {' '.join(case)} | {before:.0f} | {after:.0f} | {after / before:.2f} |")


def _process(tree: Path, program: str, *arguments: str) -> Took:
    """Runs a program with the package of a checkout, in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        note = Path(folder) / "note"
        given = [*arguments, f"hydra.run.dir={folder}/run"] if arguments else []
        began = time.time()
        process = subprocess.Popen(
            [sys.executable, "-c", program, *given],
            env=_environment(tree) | {"NOTE": str(note)},
            cwd=folder,  # and not a checkout: Python looks there first
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, used = os.wait4(process.pid, 0)
        wall = time.time() - began
        if os.waitstatus_to_exitcode(status):
            raise RuntimeError(f"It failed in {tree}: {' '.join(arguments) or program}")
        cpu_first, at = map(float, note.read_text().split()) if arguments else (0.0, began)
        return Took(cpu_first, at - began, used.ru_utime + used.ru_stime, wall)


def _environment(tree: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(tree.resolve()), "OMP_NUM_THREADS": "1"}


def _row(name: str, took: Sequence[Took]) -> None:
    cpu_first, wall_first, cpu, wall = zip(*took, strict=True)
    first = f"{min(cpu_first):.2f} | {statistics.median(wall_first):.2f}"
    first = first if any(cpu_first) else " | "
    print(f"| {name} | {first} | {min(cpu):.2f} | {statistics.median(wall):.2f} |", flush=True)
