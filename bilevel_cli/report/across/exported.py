"""Comparisons of several tasks for papers and other programs: LaTeX and CSV."""

from collections.abc import Sequence
from pathlib import Path

from bilevel_cli.report.across.overall import Competitor, overall
from bilevel_cli.report.across.told import headline, rank, sentences
from bilevel_cli.report.compare.comparison import Report
from bilevel_cli.report.compare.configurations import text
from bilevel_cli.report.compare.step_sweep import numbers
from bilevel_cli.report.costs import columns
from bilevel_cli.report.show import cells, formulas, papers


def latex(report: Report) -> str:
    """A booktabs table: a row for each configuration, a column for each task, and the mean rank.

    The best of each task is in bold, those that are level with it are underlined. What is said is
    in comments.
    """
    found = overall(report)
    said = [headline(report), *(sentences(report, found) if found else [])]
    said += [
        f"{name}: {part.statements[0]}" for name, part in report.parts.items() if part.statements
    ]
    competitors = found.competitors if found else []
    tasks = found.tasks if found else []
    arrows = [r"$\uparrow$" if report.parts[task].higher else r"$\downarrow$" for task in tasks]
    metrics = [
        f"{papers.escaped(report.parts[t].metric)} {a}" for t, a in zip(tasks, arrows, strict=True)
    ]
    heads = [
        ["configuration", *map(papers.escaped, tasks), "rank"],
        ["", *metrics, r"$\downarrow$"],
    ]
    body = [
        [papers.escaped(one.label), *(_cell(one, task) for task in tasks), rank(one)]
        for one in competitors
    ]
    return papers.tabular(said, f"l{'l' * len(tasks)}r", heads, body)


def _cell(one: Competitor, task: str) -> str:
    row = one.rows.get(task)
    if row is None:
        return "--"
    return papers.formula(cells.mark(row), row)


def write_latex(report: Report, path: Path) -> None:
    """Writes the LaTeX table."""
    path.write_text(latex(report), encoding="utf-8")


def write_csv(report: Report, path: Path) -> None:
    """Writes a row for each configuration of each task, with every number in full.

    Its rank there and its normalised score are beside its mean, so that a mean over the rows of a
    configuration is what the report says of all tasks. No cell is a formula to a spreadsheet.
    """
    found = overall(report)
    competitors = found.competitors if found else []
    of_row = {id(row): one for one in competitors for row in one.rows.values()}
    options = dict.fromkeys(name for one in competitors for name in one.options)
    rows = [(task, part, row) for task, part in report.parts.items() for row in part.rows]
    statuses = sorted({status for _, _, row in rows for status in row.counts})
    swept = numbers(report)
    by_steps = dict.fromkeys(name for found in swept.values() for name in found)
    lines: list[Sequence[object]] = [
        [
            "task",
            "configuration",
            *options,
            "metric",
            "higher_is_better",
            "value",
            "low",
            "high",
            "n",
            *("mark", "rank", "normalised", *statuses, "doubts"),
            *(f"mean_{cost}" for cost in columns()),
            *by_steps,
        ]
    ]
    for task, part, row in rows:
        one, estimate = of_row.get(id(row)), row.estimate
        chosen, ranks, scaled = (one.options, one.ranks, one.numbers) if one else ({}, {}, {})
        normalised = float(scaled[task].mean()) if task in scaled else None
        lines.append(
            [task, one.label if one else row.configuration.label]
            + [text(chosen.get(name, "")) for name in options]
            + [part.metric, "yes" if part.higher else "no"]
            + [estimate.value, estimate.low, estimate.high, estimate.n, cells.mark(row)]
            + [ranks.get(task), normalised]
            + [row.counts.get(status, 0) for status in statuses]
            + [row.doubtful, *(row.costs.get(cost) for cost in columns())]
            + [swept.get(id(row), {}).get(name) for name in by_steps]
        )
    formulas.write(path, lines)
