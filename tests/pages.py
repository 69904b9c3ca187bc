"""Folders as runs leave them behind, without the runs, and reports on them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from bilevel_cli.report.compare.compare import compare
from bilevel_cli.report.compare.comparison import Report
from bilevel_cli.report.compare.question import Question
from bilevel_cli.report.read.runs import read

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


def report(*roots: Path, **question: Any) -> Report:
    """On the runs below some folders."""
    return compare(read(roots), Question(**question))


def three_methods(root: Path) -> Report:
    """`good` is best, `near` is tied with it, `poor` is not; of `bad` all runs broke."""
    for seed in range(3):
        rise = [0.1, 0.5, 0.8, 0.85, 0.9]
        leave(root, "good", seed, [value + 0.01 * seed for value in rise])
        leave(root, "near", seed, [value - 0.01 + 0.03 * (seed == 1) for value in rise])
        leave(root, "poor", seed, [value / 2 for value in rise])
    leave(root, "bad", 0, [0.1, 0.2, "nan"], "diverged", "At step 10 there is no finite loss.")
    leave(root, "none", 0, [], "failed", "It needs <more> memory.")
    return report(root)
