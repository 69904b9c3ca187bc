"""Reports on thousands of runs: what the first one takes, and what the next ones do.

    python -m benchmarks reports --runs 10000 --rows 200
    python -m benchmarks reports --runs 10000 --before PATH   # and by another checkout, in turn

The runs are copies of one real run, with other settings and random numbers in their tables. The
first report finds no cache, and the second one what the first one left. CPU seconds are those of
the command, with its start; a disk that has to be waited for shows in the wall seconds.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import results, sweep

RUN = ("task=reweight", "data=digits", "device=cpu", "outer_steps=2", "inner_steps=2")
SEEDS = 5  # runs of a configuration
REPORT = """
import atexit, time
from bilevel_cli.commands import report
atexit.register(lambda: print("cpu", time.process_time(), peak()))
report.main()
"""


def run(folder: Path, runs: int, rows: int, before: Path | None, rounds: int = 1) -> None:
    """Writes reports.csv: CPU seconds, wall seconds and megabytes of a report.

    Args:
        folder: Where it goes.
        runs: How many the report is on.
        rows: Of each table.
        before: A checkout to compare with; None for none.
        rounds: Times that each is measured.
    """
    path = folder / "reports.csv"
    path.unlink(missing_ok=True)
    here = Path(__file__).parents[1]
    trees = {"before": before.absolute(), "now": here} if before else {"now": here}
    with tempfile.TemporaryDirectory() as made:
        make(Path(made) / "runs", runs, rows)
        settle()
        for number in range(rounds):
            for name, tree in trees.items():
                cache = Path(made) / f"cache of {name} {number}"
                for what in ("first", "second"):
                    since = time.perf_counter()
                    cpu, megabytes = command(tree, Path(made) / "runs", cache)
                    wall = time.perf_counter() - since
                    facts = {"checkout": name, "report": what, "runs": runs, "rows": rows}
                    results.append(
                        path, **facts, round=number, cpu=cpu, wall=wall, megabytes=megabytes
                    )
                kept = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file())
                print(f"{name}: {kept / 1e6:.0f} MB in the cache")


def command(tree: Path, folder: Path, cache: Path) -> tuple[float, float]:
    """CPU seconds and the most megabytes of a report.

    Args:
        tree: The checkout.
        folder: Of the runs.
        cache: In place of the user's cache folder.
    """
    ended = subprocess.run(
        [sys.executable, "-c", sweep.PEAK + REPORT, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tree,  # whose package Python then finds first
        env={**os.environ, "PYTHONPATH": str(tree), "XDG_CACHE_HOME": str(cache)},
    )
    found = re.search(r"^cpu (\S+) (\S+)$", ended.stdout, re.MULTILINE)
    if not found:
        raise RuntimeError(ended.stderr[-1000:] or ended.stdout[-1000:])
    return float(found[1]), float(found[2])


def settle() -> None:
    """Waits: of files that were written a moment ago nothing is kept."""
    time.sleep(3)


def make(root: Path, runs: int, rows: int) -> None:
    """Leaves folders as runs do: sweeps of a hundred jobs, five seeds of each configuration.

    Args:
        root: The folder above them.
        runs: How many.
        rows: Of each table.
    """
    with tempfile.TemporaryDirectory() as real:
        subprocess.run(
            [sys.executable, "-m", "bilevel_cli", *RUN, f"hydra.run.dir={real}/run"],
            check=True,
            capture_output=True,
        )
        template = Path(real) / "run"
        manifest = json.loads((template / "manifest.json").read_text())
        tables = {name: (template / name).read_text() for name in ("train.csv", "eval.csv")}
        random = np.random.default_rng(0)
        # Some tables, from which all runs have theirs: to make each takes longer than to read it.
        several = [
            {name: _table(text, rows, random) for name, text in tables.items()} for _ in range(50)
        ]
        for number in range(runs):
            folder = root / f"sweep{number // 100}" / f"job{number % 100}"
            shutil.copytree(template / ".hydra", folder / ".hydra")
            manifest["settings"] |= {"seed": number % SEEDS}
            manifest["settings"]["solver"] |= {"lr": 0.001 * (1 + number // SEEDS)}
            (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
            for name in ("bilevel.log", "lock"):
                shutil.copy(template / name, folder / name)
            (folder / "checkpoint.pt").touch()  # no report opens it
            for name, text in several[number % len(several)].items():
                (folder / name).write_text(text)


def _table(text: str, rows: int, random: np.random.Generator) -> str:
    """A table with the columns of another, in the digits that a run writes."""
    header = text.splitlines()[0]
    others = header.count(",") - 1
    lines = [
        f"{10 * row},{0.6123 * row:.4f},{','.join(f'{x:.8g}' for x in random.random(others))}"
        for row in range(rows)
    ]
    return "\n".join([header, *lines, ""])
