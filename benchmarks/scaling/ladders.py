"""The ladders: which sizes, and what is done at each."""

import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from benchmarks import many_runs, results, sweep
from benchmarks.scaling.points import Point, Work, measure
from benchmarks.scaling.problem import Estimating
from bilevel_cli.config import options
from bilevel_cli.config.options import CONF
from bilevel_cli.runs import entry

FACTOR = 4
# What a problem has besides the size that grows, and the first size of each ladder.
FIXED = {"rows": 400, "inner": 20, "outer": 16, "steps": 5}
FIRST = {"rows": 1000, "inner": 64, "outer": 64, "steps": 5}


class Size(NamedTuple):
    """How much is measured.

    Attributes:
        rungs: Sizes of a ladder.
        least: CPU seconds that repetitions of a point take.
        enough: CPU seconds of one call after which a ladder goes no further.
        limit: Seconds after which a point is ended.
        jobs: Of the largest sweep.
    """

    rungs: int
    least: float
    enough: float
    limit: float
    jobs: int


SIZES = {
    "full": Size(5, 0.15, 0.6, 120.0, 200),
    "quick": Size(3, 0.02, 0.1, 60.0, 32),
    "tiny": Size(2, 0.0, 0.1, 60.0, 8),
}


def run(path: Path, size: str, only: str) -> None:
    """Writes points.csv: a row for each point.

    Args:
        path: The CSV file.
        size: One of `SIZES`.
        only: Methods and what else grows, "episodes", "replicas", "jobs" or "report", with commas
            between them; empty for all.
    """
    path.unlink(missing_ok=True)
    given, chosen = SIZES[size], only.split(",")
    methods = [name for name in options.names("method") if not only or name in chosen]
    ladders = [(name, along) for name in methods for along in FIXED]
    configs = dict(zip(methods, map(_config, methods), strict=True))
    with torch.no_grad():
        for config in list(configs.values())[:1]:
            Estimating(config, FIXED)()  # loads once for all forks what torch loads at first use

    def climbed(ladder: tuple[str, str]) -> list[tuple[int, Point]]:
        name, along = ladder
        return list(_climb(partial(_estimating, configs[name], along), FIRST[along], given))

    # A point has one thread: two ladders at a time leave no core idle.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for (name, along), points in zip(ladders, pool.map(climbed, ladders), strict=True):
            _note(path, name, along, points)
    for along, (begin, climb) in AROUND.items():
        if not only or along in chosen:
            _note(path, "bilevel-run", along, list(climb(begin, given)))


def _note(path: Path, of: str, along: str, points: list[tuple[int, Point]]) -> None:
    for value, point in points:
        results.append(path, of=of, along=along, size=value, **point._asdict())


def _climb(at: Callable[[int], Work], first: int, given: Size) -> Iterator[tuple[int, Point]]:
    value = first
    for _ in range(given.rungs):
        point = measure(at(value), given.least, given.limit)
        yield value, point
        if point.outcome != "measured" or point.cpu > given.enough:
            return
        value *= FACTOR


def _config(method: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", ["task=quadratic", f"method={method}", "device=cpu"])


def _estimating(config: DictConfig, along: str, value: int) -> Work:
    return lambda: Estimating(config, {**FIXED, along: value})


# ---- what is around an estimate


def _run(settings: list[str]) -> Work:
    """A run of a few outer steps in this process, without what is written to the terminal."""

    def work() -> Callable[[], None]:
        chosen = [*settings, "device=cpu", "device.threads=1", "log_every=1000"]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("config", chosen)

        def once() -> None:
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
                entry.run(config, Path(folder) / "run", {})

        return once

    return work


WHOLE = 10  # of a whole run, which takes longer than an estimate
EPISODES = ["task=sinusoid", "method=reverse", "outer_steps=4", "task.eval_episodes=2"]
REPLICAS = ["task=quadratic", "method=reverse", "outer_steps=4", "eval_every=1000"]


def _episodes(first: int, given: Size) -> Iterator[tuple[int, Point]]:
    given = given._replace(enough=WHOLE * given.enough)
    yield from _climb(lambda count: _run([*EPISODES, f"task.episodes={count}"]), first, given)


def _replicas(first: int, given: Size) -> Iterator[tuple[int, Point]]:
    given = given._replace(enough=WHOLE * given.enough)
    yield from _climb(lambda count: _run([*REPLICAS, f"replicas={count}"]), first, given)


def _jobs(first: int, given: Size) -> Iterator[tuple[int, Point]]:
    """The command of a sweep until its first job begins: what comes before grows with the jobs."""
    here = Path(__file__).parents[2]
    for count in (given.jobs // FACTOR, given.jobs):
        with tempfile.TemporaryDirectory() as folder:
            cpu, megabytes = sweep.command(here, sweep.FIRST, Path(folder) / "sweep", count)
        yield count, Point("measured", cpu, megabytes)


TIMES = 10  # as many runs of a report as jobs of a sweep: a run takes less than its start-up


def _report(first: int, given: Size) -> Iterator[tuple[int, Point]]:
    """The first bilevel-report over a folder of runs."""
    here = Path(__file__).parents[2]
    for count in (TIMES * given.jobs // FACTOR, TIMES * given.jobs):
        with tempfile.TemporaryDirectory() as folder:
            made, cache = Path(folder) / "runs", Path(folder) / "cache"
            many_runs.make(made, count, rows=20)
            many_runs.settle()
            cpu, megabytes = many_runs.command(here, made, cache)
        yield count, Point("measured", cpu, megabytes)


Climb = Callable[[int, Size], Iterator[tuple[int, Point]]]
AROUND: dict[str, tuple[int, Climb]] = {
    "episodes": (25, _episodes),
    "replicas": (8, _replicas),
    "jobs": (0, _jobs),
    "report": (0, _report),
}
