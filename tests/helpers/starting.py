"""Runs as they begin: what a process has imported and spent, and a small one that is built."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from commands import LIBRARIES
from runners import built

from bilevel_cli.runs.runner import Runner

PROGRAM = """
import json, sys, time
sys.argv = ["bilevel-run", *sys.argv[1:]]
from bilevel_cli.commands import run
from bilevel_cli.runs import build
seen = {}
def observed(*args):
    runner = real(*args)
    append = runner.rows.train.append
    def first(row):
        seen.setdefault("seconds", time.process_time())
        seen.setdefault("modules", [name for name in LIBRARIES if name in sys.modules])
        append(row)
    runner.rows.train.append = first
    return runner
real, build.build = build.build, observed
run.main()
print(json.dumps(seen))
"""


def started(directory: Path, *overrides: str) -> dict[str, Any]:
    """CPU seconds of a process until its first outer step is taken, and what it has imported."""
    program = f"LIBRARIES = {LIBRARIES}\n{PROGRAM}"
    command = [sys.executable, "-c", program, *overrides, "outer_steps=1", "device=cpu"]
    found = subprocess.run(
        [*command, f"hydra.run.dir={directory}"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    seen: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return seen


def build(directory: Path, *overrides: str) -> Runner:
    return built(directory, "task=quadratic", "inner_steps=10", *overrides)
