"""Makes runs one after the other, each in its share of the seconds that are left."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LEAST = 600.0  # seconds of a run: to begin five seeds, and to compile, takes a part of them
GRACE = 300.0  # seconds for the checkpoint of a run that was told to stop, compiling perhaps


@dataclass(frozen=True)
class Task:
    """A run of `bilevel-run` with several seeds.

    Args:
        name: For messages.
        overrides: As typed on the command line, but for the folder and the seeds.
        folder: Where it goes; a run there is continued.
        seeds: How many replicas.
    """

    name: str
    overrides: tuple[str, ...]
    folder: Path
    seeds: int

    @property
    def folders(self) -> list[Path]:
        """Of the seeds, as `bilevel-run` names them: a single one has the folder for itself."""
        names = [f"seed={seed}" for seed in range(self.seeds)] if self.seeds > 1 else ["."]
        return [self.folder / name for name in names]

    @property
    def done(self) -> bool:
        """Whether every seed came to its end, by itself or by diverging."""
        paths = [folder / "manifest.json" for folder in self.folders]
        return all(
            path.exists() and json.loads(path.read_text())["status"] in ("completed", "diverged")
            for path in paths
        )

    @property
    def spent(self) -> float:
        """Seconds of training that it has had, by its first seed."""
        path = self.folders[0] / "eval.csv"
        lines = path.read_text().splitlines() if path.exists() else []
        return float(lines[-1].split(",")[1]) if len(lines) > 1 else 0.0

    def command(self) -> list[str]:
        return [
            *(sys.executable, "-m", "bilevel_cli", *self.overrides),
            *(f"replicas={self.seeds}", f"hydra.run.dir={self.folder}"),
        ]


def carry_on(tasks: Sequence[Task], seconds: float) -> None:
    """Continues what is not done, until all is or the seconds are over.

    A run is given an equal share of the seconds that are left, or `LEAST` where that is more, and
    told to stop after it. It keeps a checkpoint, from which the next call goes on: the same
    command, as often as one likes. Those that have had the fewest seconds come first.

    Args:
        tasks: Those that came to their end are passed over.
        seconds: For all of them.
    """
    begin = time.monotonic()
    left = sorted((task for task in tasks if not task.done), key=lambda task: task.spent)
    print(f"{len(tasks) - len(left)} of {len(tasks)} runs are done.", flush=True)
    while left:
        remaining = seconds - (time.monotonic() - begin)
        if remaining <= 0:
            print(f"The seconds are over; {len(left)} runs wait.", flush=True)
            return
        share = min(max(remaining / len(left), LEAST), remaining)
        task, *left = left
        since = time.monotonic()
        ended = _run(task, share)
        print(f"{task.name}: {ended} after {time.monotonic() - since:.0f} s", flush=True)


def _run(task: Task, seconds: float) -> str:
    """Runs it for so long at most. Returns how it ended, in words."""
    task.folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (task.folder / "output.txt").open("a", encoding="utf-8") as output:
        process = subprocess.Popen(
            task.command(), stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            return "stopped"
    if code == 0:
        return "completed"
    lines = (task.folder / "output.txt").read_text(encoding="utf-8").strip().splitlines()
    return f"failed: {lines[-1] if lines else f'exit status {code}'}"
