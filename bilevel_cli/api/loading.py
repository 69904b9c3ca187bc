"""What many runs left, as one table."""

import re
import warnings
from collections.abc import Iterator, Sequence
from math import nan
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from bilevel_cli.api.result import last_scores, whole_steps
from bilevel_cli.errors import UsageError
from bilevel_cli.records.plain import plain
from bilevel_cli.report.compare.configurations import (
    ABSENT,
    TARGET,
    Value,
    all_options,
    config_groups,
    key_of,
)
from bilevel_cli.report.costs import STEP, columns
from bilevel_cli.report.read import runs as reading
from bilevel_cli.report.read.runs import Run
from bilevel_cli.vocabulary import WITHOUT_A_NUMBER

ALWAYS = ("task", "method")
MEASURED = "metrics"  # what runs measured besides does not tell them apart
KINDS = ("runs", "train", "eval")


def load(
    folder: str | Path, *more: str | Path, kind: Literal["runs", "train", "eval"] = "runs"
) -> pd.DataFrame:
    """Reads runs: one row a run, or the rows of all runs.

        import bilevel_cli

        runs = bilevel_cli.load("outputs/sweeps")
        runs.groupby(["method", "solver.lr"])["test_accuracy"].agg(["mean", "std"])
        rows = bilevel_cli.load("outputs/sweeps", kind="eval")

    Columns that say which run it is come first: the options by the names that are typed, such as
    "cg" in the column `method`; the settings that were typed for any of the runs, and those in
    which runs of the same options differ; `seed`, `status` and `folder`. None or NaN stands where a
    run has no such setting.

    Args:
        folder: Of a run or of a sweep, or a folder above them: all runs below it are read.
        *more: Others.
        kind: "runs" for one row a run, with its last scores and its costs; "train" or "eval" for
            the rows of train.csv or eval.csv of all runs.

    Returns:
        Of "runs", the columns above, then the scores of the last evaluation, then the costs `step`,
        `seconds`, `inner_grads`, `hvps` and `peak_memory_mb` of the last row of train.csv. A run
        that diverged, failed or ran out of memory has no scores, as in reports. Of "train" and
        "eval", the columns above, then those of the file; infinite numbers are NaN.

    Raises:
        UsageError: There is no such folder, or it has no runs in it.

    Warns:
        UserWarning: A file is damaged; its whole rows are read.
    """
    if kind not in KINDS:
        raise UsageError(f"load needs kind to be one of {', '.join(KINDS)}, got {kind!r}.")
    runs = reading.read([Path(one).expanduser() for one in (folder, *more)])
    options, damaged = _shown(runs), (line for run in runs for line in run.warnings)
    for line in dict.fromkeys(damaged):
        warnings.warn(plain(line), stacklevel=2)
    known = [
        {**{name: _cell(value(run)) for name, value in options.items()}, "seed": run.seed}
        | {"status": run.status}
        for run in runs
    ]
    folders = [str(run.folder) for run in runs]
    if kind == "runs":
        rows = [one | _scores(run) | _costs(run) for one, run in zip(known, runs, strict=True)]
        return pd.DataFrame(rows).assign(folder=folders)
    tables = [run.train if kind == "train" else run.evals for run in runs]
    counts = [len(table) for table in tables]
    named = pd.DataFrame(known).assign(folder=folders)
    repeated = named.loc[named.index.repeat(counts)].reset_index(drop=True)
    every = whole_steps(pd.concat(tables, ignore_index=True))
    return pd.concat([repeated, every], axis=1)


def _shown(runs: Sequence[Run]) -> dict[str, Value]:
    """The options that tell runs apart or were typed, in the order of columns."""
    options, groups = all_options(runs), config_groups(runs)
    typed = {name for texts in reading.typed(runs) for name in _names(texts)}
    # A group that was typed is a column itself, and does not stand for all settings below it.
    trees = typed - {name for group in groups for name in _beginnings(group, "/")}
    alike: dict[str, list[Run]] = {}
    for run in runs:
        choices = [_cell(options[group](run)) for group in groups]
        alike.setdefault(key_of(choices), []).append(run)

    def wanted(name: str) -> bool:
        if name in ALWAYS or name in typed or any(one in trees for one in _beginnings(name, ".")):
            return True
        if name.endswith(TARGET) or re.split("[./]", name)[0] == MEASURED:
            return False
        if name in groups:
            return _differs(options[name], runs)
        # A setting that differs because its option does says nothing new.
        return any(_differs(options[name], some) for some in alike.values())

    return {name: value for name, value in options.items() if wanted(name)}


def _names(texts: Sequence[str]) -> list[str]:
    """The names of settings that were typed."""
    found = (re.match(r"[+~]*([^=@]+)", text) for text in texts)
    return [match[1] for match in found if match]


def _beginnings(name: str, sign: str) -> Iterator[str]:
    """A name and the names above it: a/b/c, a/b, a."""
    while name:
        yield name
        name = name.rpartition(sign)[0]


def _differs(value: Value, runs: Sequence[Run]) -> bool:
    return len({key_of(_cell(value(run))) for run in runs}) > 1


def _cell(value: Any) -> Any:
    """A value in a table: None where there is none, a tuple for a list, since rows are grouped."""
    if value is ABSENT:
        return None
    return tuple(map(_cell, value)) if isinstance(value, list) else value


def _scores(run: Run) -> dict[str, float]:
    known = run.status not in WITHOUT_A_NUMBER
    return {name: score if known else nan for name, score in last_scores(run).items()}


def _costs(run: Run) -> dict[str, float]:
    if not len(run.train):
        return {}
    last = run.train.iloc[-1].to_dict()
    costs = {name: float(last[name]) for name in columns() if name in last}
    return costs | {STEP: int(costs[STEP])}
