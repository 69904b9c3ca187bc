"""The runs of a report as a table for other programs: a row a run, a column an option."""

import math
from collections.abc import Sequence
from pathlib import Path

from bilevel_cli.report.across.reached import SPENT
from bilevel_cli.report.compare.comparison import NO_NUMBER, Report, Row
from bilevel_cli.report.compare.configurations import ABSENT, all_options, text
from bilevel_cli.report.compare.step_sweep import of_runs
from bilevel_cli.report.costs import columns
from bilevel_cli.report.read.runs import Run
from bilevel_cli.report.show import formulas
from bilevel_cli.vocabulary import COMPLETED

REPEATED = "run again later"  # why a run is not counted, where its status does not say it
NOT_YET = "not at the budget"
LEFT_OUT = "no task, or no such metric"

Cells = dict[str, object]


def write(report: Report, path: Path) -> None:
    """Writes a row for each run that was read, also for those that are not in a mean.

    Columns are `run`, `folder`, `configuration`, `status`, `seed`, `counted`
    (in a mean) and `why_not`; `metric`, its `value` where runs are compared, and `validation`; the
    costs there, or at the end of a run that is not counted; what it took to reach a target, if one
    was asked for; `doubts` and `error`; scores after other numbers of inner steps, as eval.csv
    names them; then every option of any run, by the name that one types.
    An option with the name of a column before it has `settings.` before its name.

    Args:
        report: The comparison.
        path: The file.
    """
    rows = _rows(report)
    options = all_options(report.runs)
    fixed = dict.fromkeys(name for cells, _ in rows for name in cells)
    named = {name: f"settings.{name}" if name in fixed else name for name in options}
    lines: list[Sequence[object]] = [[*fixed, *named.values()]]
    for cells, run in rows:
        values = (value(run) for value in options.values())
        chosen = ["" if one is ABSENT else text(one) for one in values]
        lines.append([*(cells.get(name) for name in fixed), *chosen])
    formulas.write(path, lines)


def _rows(report: Report) -> list[tuple[Cells, Run]]:
    parts = list(report.parts.values()) or [report]
    found: list[tuple[Cells, Run]] = []
    told = set[Run]()
    for part in parts:
        swept = of_runs(part)
        for row in part.rows:
            for run in row.configuration.runs:
                found.append(({**_cells(part, row, run), **swept.get(run.name, {})}, run))
                told.add(run)
        for run in part.runs:
            if run not in told:
                found.append(({**_who(run, ""), "counted": "no", "why_not": REPEATED}, run))
                told.add(run)
    for run in report.runs:
        if run not in told:
            found.append(({**_who(run, ""), "counted": "no", "why_not": LEFT_OUT}, run))
    return found


def _who(run: Run, configuration: str) -> Cells:
    return {
        "run": run.name,
        "folder": str(run.folder.absolute()),
        "configuration": configuration,
        "status": run.status,
        "seed": run.seed,
    }


def _cells(part: Report, row: Row, run: Run) -> Cells:
    counted = run.name in row.values
    spent = row.spent[run.name] if counted else _at_end(run)
    cells: Cells = {
        **_who(run, row.configuration.label),
        "counted": "yes" if counted else "no",
        "why_not": "" if counted else _why(run),
        "metric": part.metric,
        "higher_is_better": "yes" if part.higher else "no",
        "value": row.values.get(run.name),
        **{cost: spent.get(cost) for cost in columns()},
    }
    if part.target is not None:
        needed = part.at_target.get(run.name, {})
        cells["target"] = part.target
        cells |= {f"{cost}_to_target": needed.get(cost) for cost in SPENT}
    return {**cells, "doubts": " ".join(run.doubts.values()), "error": run.error}


def _why(run: Run) -> str:
    if run.status == COMPLETED:
        return NO_NUMBER
    return run.status


def _at_end(run: Run) -> dict[str, float]:
    """What a run had spent at the end of its longer table."""
    spent = {}
    for cost in columns():
        known = [
            float(table[cost].iloc[-1])
            for table in (run.train, run.evals)
            if len(table) and cost in table
        ]
        spent[cost] = max(known, default=math.nan)
    return spent
