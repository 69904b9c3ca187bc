"""The curves that runs of the benchmark left, ours and those of the peers."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from reproductions.bilevel.published import Problem

LAST = 10  # evaluations, of which the end of a run is the median
POINTS = 60  # of a picture's curve


@dataclass(frozen=True)
class End:
    """Where the runs of a method stand.

    Args:
        scores: Of each seed that did not diverge: the median of its last evaluations.
        diverged: How many seeds did.
        share: Of the oracle calls, of the seed that is furthest behind of the others.
        steps: Outer steps of that seed.
        seconds: Of training, likewise.
    """

    scores: tuple[float, ...]
    diverged: int
    share: float
    steps: int
    seconds: float

    @property
    def median(self) -> float:
        """Of the scores; infinite where all seeds diverged."""
        return float(np.median(self.scores)) if self.scores else math.inf


def tables(folder: Path) -> list[pd.DataFrame]:
    """eval.csv of each seed that came further than its start and did not diverge."""
    found = [pd.read_csv(one / "eval.csv") for one in _seeds(folder) if not _diverged(one)]
    return [table for table in found if len(table) and table["step"].iloc[-1]]


def _seeds(folder: Path) -> list[Path]:
    paths = sorted(folder.glob("seed=*/eval.csv")) or sorted(folder.glob("eval.csv"))
    return [path.parent for path in paths]


def _diverged(folder: Path) -> bool:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return bool(manifest["status"] == "diverged")


def end(problem: Problem, experiment: dict[str, int], folder: Path) -> End | None:
    """Where the runs in a folder stand; None where there are none.

    Args:
        problem: The problem.
        experiment: What its file holds; `outer_steps` are those of all its oracle calls.
        folder: It has a folder for each seed.
    """
    seeds, diverged = tables(folder), sum(map(_diverged, _seeds(folder)))
    if not seeds:
        return End((), diverged, 0.0, 0, 0.0) if diverged else None
    behind = min(seeds, key=lambda table: table["step"].iloc[-1]).iloc[-1]
    scores = tuple(float(problem.score(table).iloc[-LAST:].median()) for table in seeds)
    share = float(behind["step"]) / experiment["outer_steps"]
    return End(scores, diverged, share, int(behind["step"]), float(behind["seconds"]))


def median_curve(
    problem: Problem, experiment: dict[str, int], folder: Path
) -> "pd.DataFrame | None":
    """The median over seeds: columns `seconds`, `calls` and `score`; None where nothing was run.

    Args: as `end`.
    """
    seeds = tables(folder)
    if not seeds:
        return None
    rows = min(map(len, seeds))  # of the seed that is furthest behind
    scores = np.median([problem.score(table).to_numpy()[:rows] for table in seeds], axis=0)
    first = seeds[0].iloc[:rows]
    calls = problem.calls * first["step"] / experiment["outer_steps"]
    seconds = np.median([table["seconds"].to_numpy()[:rows] for table in seeds], axis=0)
    whole = pd.DataFrame({"seconds": seconds, "calls": calls.to_numpy(), "score": scores})
    return thinned(whole)


def peer_curves(path: Path, problem: Problem) -> dict[str, pd.DataFrame]:
    """The curves of the JAX peers on a problem, by method; none where there is no such file.

    Args:
        path: curves.csv of the stochastic benchmark, with `case` ("ijcnn1 soba"), `step`,
            `seconds` and `score`. A case begins as the names of the problem's experiments do.
        problem: The problem, for the oracle calls of a step.
    """
    if not path.exists():
        return {}
    table, experiments = pd.read_csv(path), problem.experiments()
    found = {}
    for case, rows in table.groupby("case"):
        of, _, method = str(case).partition(" ")
        if f"benchmark_{of}_" == problem.prefix and method in experiments:
            calls = problem.calls * rows["step"] / experiments[method]["outer_steps"]
            found[method] = thinned(rows[["seconds", "score"]].assign(calls=calls))
    return found


def thinned(curve: pd.DataFrame) -> pd.DataFrame:
    """Some of its points, the last one among them."""
    if len(curve) <= POINTS:
        return curve
    return curve.iloc[np.unique(np.linspace(0, len(curve) - 1, POINTS).round().astype(int))]
