"""Folders as runs leave them behind, without the runs, and reports on them."""

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from commands import exit_code

from bilevel_cli.commands import report as command
from bilevel_cli.report.compare.compare import compare
from bilevel_cli.report.compare.comparison import Report, Row
from bilevel_cli.report.compare.question import Question
from bilevel_cli.report.read.runs import Run, read

EVERY = 5  # outer steps between two rows


def leave(
    root: Path,
    method: str,
    seed: int,
    accuracies: Sequence[float | str],
    status: str = "completed",
    error: str | None = None,
    settings: dict[str, Any] | None = None,
) -> Path:
    """The folder of a run with these test accuracies, a row every `EVERY` steps from 0 on."""
    folder = root / f"{method.replace('/', '_')[:20]},{seed}"
    folder.mkdir(parents=True)
    manifest = {
        "status": status,
        "error": error,
        "command": f"bilevel-run method={method} seed={seed}",
        "git_commit": "c0ffee",
        "device": "cpu",
        "threads": 1,
        "versions": {"torch": "2.11.0"},
        "data": "Examples: 10",
        "data_sha256": "5ea1",
        "settings": {"seed": seed, **(settings or {})},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / ".hydra").mkdir()
    chosen = {"hydra": {"runtime": {"choices": {"method": method}}}}
    (folder / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(chosen))
    evals = ["step,seconds,test_accuracy,f1"]
    train = ["step,seconds,outer_loss,inner_grads,hvps,peak_memory_mb"]
    for row, accuracy in enumerate(accuracies):
        step, seconds = EVERY * row, row * (1 + seed / 10)
        evals.append(f"{step},{seconds},{accuracy},0.5")
        if row:
            train.append(f"{step},{seconds},{1 / (1 + row)},{100 * row},{row},{50 + seed}")
    if len(accuracies):
        (folder / "eval.csv").write_text("\n".join([*evals, ""]))
        (folder / "train.csv").write_text("\n".join([*train, ""]))
    return folder


def method_at(root: Path, method: str, finals: Iterable[float], **others: Any) -> None:
    """Runs of a method as `run_at` leaves them, one for each final score, with seeds from 0 on."""
    for seed, final in enumerate(finals):
        run_at(
            root / f"{method},seed={seed}",
            (0.1, final / 2, final),
            seed=seed,
            choices={"method": method},
            method={"_target_": f"package.{method.title()}"},
            **others,
        )


def reported(*roots: Path, **question: Any) -> Report:
    """The comparison of the runs below some folders."""
    return compare(read(roots), Question(**question))


def by_label(report: Report) -> dict[str, Row]:
    """The rows of a comparison by the labels of their configurations."""
    return {row.configuration.label: row for row in report.rows}


def bilevel_report(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """The exit code of the command."""
    return exit_code("bilevel-report", command.main, monkeypatch, *arguments)


def three_methods(root: Path) -> Report:
    """`good` is best, `near` is tied with it, `poor` is not; of `bad` all runs broke."""
    for seed in range(3):
        rise = [0.1, 0.5, 0.8, 0.85, 0.9]
        leave(root, "good", seed, [value + 0.01 * seed for value in rise])
        leave(root, "near", seed, [value - 0.01 + 0.03 * (seed == 1) for value in rise])
        leave(root, "poor", seed, [value / 2 for value in rise])
    leave(root, "bad", 0, [0.1, 0.2, "nan"], "diverged", "At step 10 there is no finite loss.")
    leave(root, "none", 0, [], "failed", "It needs <more> memory.")
    return reported(root)


PLOTLY = "/* plotly.js */"


def many(runs: int, rows: int) -> Report:
    """Five seeds of each configuration, with `rows` rows in both tables."""
    random, steps = np.random.default_rng(0), np.arange(rows, dtype=float)
    names = ("outer_loss", "grad_norm", "residual", "inner_grads", "hvps", "peak_memory_mb")
    found = []
    for number in range(runs):
        train = {"step": steps, "seconds": steps * 1.1} | {n: random.random(rows) for n in names}
        train |= {"inner_grads": steps * 10, "peak_memory_mb": 100 + steps // 100}
        scores = {f"score_{i}": random.random(rows) for i in range(6)}
        evals = {"step": steps, "seconds": steps * 1.1, **scores}
        settings = {"seed": number % 5, "lr": number // 5}
        tables = pd.DataFrame(train), pd.DataFrame(evals)
        run = Run(Path("."), f"r{number}", "completed", None, settings, {}, {}, *tables, [], ())
        found.append(run)
    return compare(found, Question())


TRAIN_HEADER = "step,seconds,outer_loss,inner_grads,hvps,peak_memory_mb"
EVAL_HEADER = "step,seconds,test_accuracy"


def run_at(
    folder: Path,
    scores: Sequence[float] = (0.1, 0.5, 0.9),
    seed: int = 0,
    status: str = "completed",
    every: int = 10,
    grads: int = 100,
    memory: float = 300,
    choices: dict[str, str] | None = None,
    manifest: dict[str, Any] | None = None,
    losses: Sequence[float] | None = None,
    **others: Any,
) -> Path:
    """A folder as a run leaves it, evaluated `every` steps at `grads` gradients and 2 s each."""
    (folder / ".hydra").mkdir(parents=True)
    steps = [every * count for count in range(len(scores))]
    (folder / "eval.csv").write_text(
        "\n".join(
            [EVAL_HEADER, *(f"{s},{2 * s},{v}" for s, v in zip(steps, scores, strict=True)), ""]
        )
    )
    rows = [
        f"{s},{2 * s},{loss},{grads * s},{s},{memory + s}"
        for s, loss in zip(steps[1:], losses or [1.0] * len(steps[1:]), strict=True)
    ]
    (folder / "train.csv").write_text("\n".join([TRAIN_HEADER, *rows, ""]))
    entries = {
        "status": status,
        "error": None,
        "started": "2026-01-01T00:00:00+00:00",
        "versions": {"torch": "2.13.0", "bilevel-cli": "0.1.0"},
        "git_commit": "0" * 40,
        "settings": {"seed": seed, "outer_steps": 20, **others},
        "data_sha256": f"digest of seed {seed}",
        "device": "cpu",
        "gpu": None,
        "threads": 1,
        "higher_is_better": ["*accuracy"],
        **(manifest or {}),
    }
    (folder / "manifest.json").write_text(json.dumps(entries))
    chosen = json.dumps({"hydra": {"runtime": {"choices": choices or {}}}})  # JSON is YAML
    (folder / ".hydra" / "hydra.yaml").write_text(chosen)
    return folder


MEASURED = """
import json, sys, time
from pathlib import Path
import pandas, scipy.stats
from bilevel_cli.commands import report

def peak():
    # Unlike ru_maxrss, this does not begin with the size of the process that started this one.
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024

sys.argv, before = ["bilevel-report", *sys.argv[1:]], peak()
report.main()
assert "torch" not in sys.modules, "torch"
print(json.dumps({"memory": peak() - before, "seconds": time.process_time()}), file=sys.stderr)
"""


def measured(root: Path, count: int, rows: int) -> dict[str, float]:
    """What a report of `count` runs of `rows` rows takes.

    "memory" are MB besides those of its libraries, "seconds" those of one core, with the imports.
    """
    numbers = np.random.default_rng(0).random((rows, 5)).round(6)
    lines = [
        f"{step},{0.01 * step:.2f}," + ",".join(map(str, row)) for step, row in enumerate(numbers)
    ]
    text = {
        "train.csv": "\n".join([f"{TRAIN_HEADER},grad_norm", *lines, ""]),
        "eval.csv": "\n".join([f"{EVAL_HEADER},a,b,c,d", *lines, ""]),
    }
    for number in range(count):
        lr: dict[str, Any] = {"optimizer": {"lr": 0.01 * (1 + number // 5)}}
        folder = run_at(root / str(number), seed=number % 5, choices={"method": "cg"}, **lr)
        for name, content in text.items():
            (folder / name).write_text(content)
    found = subprocess.run(
        [sys.executable, "-c", MEASURED, root, "--at", "seconds"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"{count} runs in" in found.stdout
    taken: dict[str, float] = json.loads(found.stderr)
    return taken
