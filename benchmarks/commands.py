"""What surrounds the hypergradient in a run: start-up, logging, and replicas of a run."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir

from benchmarks import results
from bilevel_cli.config.options import CONF
from bilevel_cli.config.resolved import resolved
from bilevel_cli.runs.build import build

DIGITS = ("task=reweight", "data=digits")
NEVER = 1_000_000


def run(folder: Path, size: str, device: str, rounds: int) -> None:
    """Writes commands.csv: what was timed, and its seconds."""
    path = folder / "commands.csv"
    path.unlink(missing_ok=True)
    steps, seeds = {"full": (30, 8), "quick": (10, 4), "tiny": (2, 2)}[size]
    job = [*DIGITS, f"device={device}", f"outer_steps={steps}"]
    for number in range(rounds):
        start = _command([*DIGITS, f"device={device}", "outer_steps=1"])
        results.append(path, what="start-up and one step", round=number, seconds=start)
        together = _command([*job, f"replicas={seeds}"])
        results.append(path, what=f"{seeds} replicas in one run", round=number, seconds=together)
        alone = sum(_command([*job, f"seed={seed}"]) for seed in range(seeds))
        results.append(path, what=f"{seeds} single runs", round=number, seconds=alone)
    few = {"full": 300, "quick": 100, "tiny": 5}[size]
    for number in range(-1, 2 * rounds):  # the first is a warm-up
        for every, what in ((1, "every step"), (NEVER, "no step")):
            seconds = _steps(few, every, device)
            if number >= 0:
                what = f"a step of a small task, {what} logged"
                results.append(path, what=what, round=number, seconds=seconds)


def _command(overrides: Sequence[str]) -> float:
    """Wall seconds of `bilevel-run`; NaN where it refuses."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bilevel_cli", *overrides, f"hydra.run.dir={folder}/run"]
        since = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - since
    if done.returncode:
        print(f"{' '.join(overrides)}: {(done.stderr.splitlines() or ['failed'])[-1]}")
        return float("nan")
    return seconds


def _steps(count: int, log_every: int, device: str) -> float:
    """Wall seconds of an outer step of hyper-cleaning of digits with ten inner steps."""
    settings = [f"outer_steps={count}", f"log_every={log_every}", "inner_steps=10"]
    never = [f"eval_every={NEVER}", f"save_every={NEVER}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [*DIGITS, *settings, *never, f"device={device}"])
    with tempfile.TemporaryDirectory() as folder:
        run = build(config, resolved(config), Path(folder), {})
        since = time.perf_counter()
        run.run()
        return (time.perf_counter() - since) / count
