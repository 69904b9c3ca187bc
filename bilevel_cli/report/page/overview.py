"""The sections of the page on all tasks of a report together, and on targets."""

import math

from bilevel_cli.report.across import printed, told
from bilevel_cli.report.across.overall import Competitor, Overall, overall
from bilevel_cli.report.across.pairings import Pair
from bilevel_cli.report.across.panels import looks, looks_of_runs
from bilevel_cli.report.compare.comparison import BEST, LEVEL, Report
from bilevel_cli.report.costs import cost_of
from bilevel_cli.report.page.markup import (
    badge,
    card,
    escape,
    headed,
    listed,
    row_of,
    swatch,
    table_of,
)
from bilevel_cli.report.page.standing_charts import charts
from bilevel_cli.report.show import cells

PLUS_MINUS = "\u00b1"
NOTES = "note statements"  # what lists of sentences are to page.css
MOST = 12  # configurations whose pairs are shown at once; those of more are folded


def across(report: Report) -> str:
    """Each configuration on each task and over all, its ranks, its profile, and all pairs."""
    found = overall(report)
    if found is None:
        return ""
    styles = looks(report, found)
    said = listed(told.sentences(report, found), NOTES)
    parts = [_standings(report, found, styles), said]
    if len(found.ranked) > 1:
        parts.append(charts(found, styles))
    if len(found.competitors) > 1:
        parts.append(_pairs(found, styles))
    return card("across", f"All {len(found.tasks)} tasks", "".join(parts))


def by_task(report: Report) -> str:
    """A table for each task, with what is said of it."""
    styles = looks_of_runs(report)
    found = []
    for name, part in report.parts.items():
        costs = cells.known_costs(part)
        lines = cells.lines(part)
        others = any(line.others for line in lines)
        rows = []
        for row, line in zip(part.rows, lines, strict=True):
            label = f"{swatch(styles[row.configuration.runs[0]])}{escape(line.label)}"
            number = escape(cells.estimate(row.estimate, PLUS_MINUS)) if row.values else ""
            measured = _cell(f"{number}{badge(row.standing.kind, line.mark)}", plain=False)
            amounts = (cells.amount(row.costs.get(cost, math.nan)) for cost in costs)
            extra = [_cell(line.n), *([_cell(line.others)] if others else [])]
            rows.append(row_of(label, [measured, *extra, *map(_cell, amounts)]))
        head = [escape(cells.words(part.metric or "score")), "runs"]
        head += [*(["other runs"] if others else []), *(cost_of(cost).title for cost in costs)]
        said = [told.headline(part, PLUS_MINUS)]
        said += [line for line in part.statements if line not in report.statements]
        table = table_of(name, headed("configuration", head), rows)
        found.append(f"<h3>{escape(name)}</h3>{listed(said, NOTES)}{table}")
    return card("results", "Task by task", "".join(found))


def reached(report: Report) -> str:
    """What it took to reach a target, for each task that has one."""
    tables = []
    for name, part in (report.parts or {"": report}).items():
        if part.target is None or not part.metric:
            continue
        sentence, ((first, *head), *rows) = printed.targets(part)
        title = f"<h3>{escape(name)}</h3>" if name else ""
        lines = [row_of(escape(label), map(_cell, others)) for label, *others in rows]
        table = table_of(f"To a target {name}", headed(escape(first), map(escape, head)), lines)
        tables.append(f'{title}<p class="note">{escape(sentence)}</p>{table}')
    return card("target", "To a target", "".join(tables)) if tables else ""


def _standings(report: Report, found: Overall, styles: dict[str, int]) -> str:
    """The table of ranks, with the mean on each task."""
    failing = any(one.failed for one in found.competitors)
    tasks = [
        f"{escape(task)}<br><small>{escape(cells.words(report.parts[task].metric))}"
        f"&nbsp;{'&uarr;' if report.parts[task].higher else '&darr;'}</small>"
        for task in found.tasks
    ]
    rows = []
    for one in found.competitors:
        rank = "-" if math.isnan(one.rank) else f"{one.rank:.2f}"
        mean = "-" if math.isnan(one.rank) else escape(cells.estimate(one.mean, PLUS_MINUS))
        standing = told.standing(found, one)
        mark = f" {badge(standing.split(' ')[0], standing)}" if standing else ""
        rows.append(
            row_of(
                f"{swatch(styles[one.label])}{escape(one.label)}",
                [
                    _cell(f"{rank}{mark}", plain=False),
                    _cell(mean, plain=False),
                    *(_score(one, task) for task in found.tasks),
                    *([_cell(told.failed(one))] if failing else []),
                ],
            )
        )
    head = ["mean rank", "normalised", *tasks, *(["failed"] if failing else [])]
    return table_of("All tasks", headed("configuration", head), rows)


def _score(one: Competitor, task: str) -> str:
    row = one.rows.get(task)
    if row is None:
        return _cell("not run")
    if not row.values:
        return _cell(cells.mark(row))
    number = escape(cells.estimate(row.estimate, PLUS_MINUS))
    kind = row.standing.kind
    if kind == BEST:
        number = f"<strong>{number}</strong>"
    title = escape(cells.mark(row))
    own = ' class="same"' if kind not in (BEST, LEVEL) else ""
    return f'<td{own} title="{title}">{number}</td>'


def _pairs(found: Overall, styles: dict[str, int]) -> str:
    shown = found.paired
    rows = [
        row_of(
            f"{number}&ensp;{swatch(styles[one.label])}{escape(one.label)}",
            (_against(found, one, other) for other in shown),
        )
        for number, one in enumerate(shown, 1)
    ]
    head = headed("row beats column", map(str, range(1, len(shown) + 1)))
    said = escape(f"{told.PROBABILITY} {told.RECORDS}")
    table = f'{table_of("Pairs", head, rows)}<p class="note">{said}</p>'
    if len(shown) > MOST:
        return f"<details><summary>Pairs of {len(shown)} configurations</summary>{table}</details>"
    return f"<h3>Pairs</h3>{table}"


def _against(found: Overall, one: Competitor, other: Competitor) -> str:
    if one is other:
        return "<td></td>"
    pair = found.pairs[one.label, other.label]
    if math.isnan(pair.probability):
        return _cell("-")
    interval = f"95 % interval {pair.low:.2f} to {pair.high:.2f}"
    said = f"{one.label} beats {other.label}: {pair.probability:.2f}, {interval}"
    return (
        f'<td title="{escape(said)}"{_shade(pair)}>{escape(printed.beaten(pair))}'
        f"<br><small>{pair.won}-{pair.level}-{pair.lost}</small></td>"
    )


def _shade(pair: Pair) -> str:
    if pair.low > 0.5:
        return ' style="background: var(--good-back)"'
    return ' style="background: var(--warn-back)"' if pair.high < 0.5 else ""


def _cell(content: str, plain: bool = True) -> str:
    return f"<td>{escape(content) if plain else content}</td>"
