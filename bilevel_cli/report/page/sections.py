"""The sections of the page below its curves: functions from a report to HTML, or to ""."""

import math
from collections.abc import Iterable

from bilevel_cli.report.compare.comparison import ALONE, Report, Row
from bilevel_cli.report.compare.configurations import Configuration, differences, text
from bilevel_cli.report.costs import STEP, cost_of
from bilevel_cli.report.page import overview, pictures, step_charts
from bilevel_cli.report.page.markup import (
    badge,
    breakable,
    card,
    escape,
    headed,
    row_of,
    short_names,
    status,
    swatch,
    table_of,
)
from bilevel_cli.report.read.runs import Run
from bilevel_cli.report.show import cells
from bilevel_cli.report.show.cells import words
from bilevel_cli.report.show.curves import broken
from bilevel_cli.report.show.lineup import FEW, lineup
from bilevel_cli.vocabulary import ENDED_BADLY

MOST_ROWS = 20  # a longer table of differences is folded
UP, DOWN, NAN = "ascending", "descending", math.nan


def results(report: Report) -> str:
    """The table of the report, which readers can sort by any column; a table of each task."""
    if report.parts:
        return overview.by_task(report)
    costs = cells.known_costs(report)
    lines = cells.lines(report)
    others = any(line.others for line in lines)
    doubts = any(row.doubtful for row in report.rows)
    marks = any(row.standing.why != ALONE for row in report.rows)
    header = [
        _header("configuration", "text"),
        _header(escape(words(report.metric or "score")), first=DOWN if report.higher else UP),
        *([_header("against the best", "text")] if marks else []),
        _header("runs", first=DOWN),
        *([_header("other runs", "text")] if others else []),
        *([_header("doubts", first=DOWN)] if doubts else []),
        *(_header(cost_of(cost).title) for cost in costs),
    ]
    placed, numbers = lineup(report), {id(one): n for n, one in enumerate(report.configurations)}
    rows = []
    for place, (row, line) in enumerate(zip(report.rows, lines, strict=True)):
        number = numbers[id(row.configuration)]
        label = f"{swatch(placed.style(number))}{escape(row.configuration.label)}"
        row_cells = [
            f'<th scope="row" class="label">{label}</th>',
            _measured(row),
            *([_stands(row, line, place)] if marks else []),
            f'<td data-sort="{row.estimate.n}">{line.n}</td>',
            *([f'<td class="text">{_ended(row, line.others)}</td>'] if others else []),
            *([_doubted(row, line.doubts)] if doubts else []),
            *(_cost(row.costs.get(cost, NAN)) for cost in costs),
        ]
        entry = f'class="{row.standing.kind}" data-entry="{placed.entry[number]}"'
        rows.append(f"<tr {entry}>{''.join(row_cells)}</tr>")
    note = (
        "Mean over runs with its 95&nbsp;% interval. Level: its difference to the best may be "
        "chance. Costs are means of the same runs, where they are compared."
    )
    table = table_of("Results", header, rows)
    return card("results", "Table", f'{table}<p class="note">{note}</p>')


def _measured(row: Row) -> str:
    if not row.values:
        return '<td class="metric" data-sort="">-</td>'
    number = cells.estimate(row.estimate, "\u00b1")
    return f'<td class="metric" data-sort="{row.estimate.value!r}">{number}</td>'


def _stands(row: Row, line: cells.Line, place: int) -> str:
    """How a row stands to the best; sorted, the column has the order of the report."""
    return f'<td class="text" data-sort="{place}">{badge(row.standing.kind, line.mark)}</td>'


def _ended(row: Row, text: str) -> str:
    kind = "bad" if set(row.counts) & set(ENDED_BADLY) else "plain"
    return badge(kind, text)


def _doubted(row: Row, text: str) -> str:
    return f'<td data-sort="{row.doubtful}">{badge("bad", text)}</td>'


def _cost(number: float) -> str:
    if not math.isfinite(number):
        return '<td data-sort="">-</td>'
    return f'<td data-sort="{number!r}">{cells.amount(number)}</td>'


def _header(name: str, kind: str = "", first: str = UP) -> str:
    """The head of a column: a button that sorts, at the first press in the direction `first`."""
    button = f'<button type="button">{name}</button>'
    return f'<th scope="col" class="{kind}" data-first="{first}">{button}</th>'


def differing(report: Report) -> str:
    """All settings in which configurations differ, not only those that name them."""
    found = differences(report.configurations)
    if not found:
        return ""
    settings = [f"<code>{escape(name)}</code>" for name in found]
    placed = lineup(report)
    labels = [f"{swatch(placed.style(n))} {escape(one.label)}" for n, one in _numbered(report)]
    values = [[escape(text(value)) for value in row] for row in found.values()]
    if len(labels) > FEW:  # dozens of columns would scroll out of view
        settings, labels, values = (
            labels,
            settings,
            [list(row) for row in zip(*values, strict=True)],
        )
    rows = [
        row_of(name, (f"<td>{value}</td>" for value in row))
        for name, row in zip(settings, values, strict=True)
    ]
    table = table_of("Settings that differ", headed("", labels), rows)
    if len(rows) > MOST_ROWS:
        table = f"<details><summary>{len(found)} settings</summary>{table}</details>"
    return card("differences", "What differs", table)


def _numbered(report: Report) -> list[tuple[int, Configuration]]:
    return list(enumerate(report.configurations))


def failures(report: Report) -> str:
    """The runs that broke, and why."""
    found = broken(report)
    if not found:
        return ""
    names = short_names(report.runs)
    header = [
        '<th scope="col" class="text">run</th>',
        '<th scope="col" class="text">status</th>',
        '<th scope="col">last step</th>',
        '<th scope="col" class="text">reason</th>',
    ]
    rows = [
        f'<tr><td class="label run">{breakable(names[run.name])}</td>'
        f'<td class="text">{status(run)}</td>'
        f'<td>{_last_step(run)}</td><td class="text wide">{escape(run.error or "-")}</td></tr>'
        for run in found
    ]
    return card("failures", "Runs that broke", table_of("Runs that broke", header, rows))


def _last_step(run: Run) -> str:
    steps = [int(table[STEP].iloc[-1]) for table in (run.train, run.evals) if len(table)]
    return f"{max(steps):,}" if steps else "-"


def learned(report: Report) -> str:
    """Pictures of what runs left behind."""
    found, left_out = pictures.found(report.configurations)
    if not found:
        return ""
    names, placed = short_names(report.runs), lineup(report)
    figures = "".join(
        f"<figure><h3>{swatch(placed.style(one.series))}{escape(report.configurations[one.series].label)}</h3>"
        f'{one.html}<figcaption class="run">{breakable(names[one.run])}</figcaption></figure>'
        for one in found
    )
    note = "Of the first run of each configuration that left any."
    if left_out:
        note += f" {left_out} more would make this page too large."
    figures = f'<div class="pictures">{figures}</div><p class="note">{note}</p>'
    return card("pictures", "What was learned", figures)


def runs(report: Report) -> str:
    """What the manifest of each run says, folded; runs that were run again later come last."""
    names, placed = short_names(report.runs), lineup(report)
    series = {id(run): number for number, one in _numbered(report) for run in one.runs}
    ordered = sorted(report.runs, key=lambda run: series.get(id(run), len(report.configurations)))
    items = "".join(
        f"<details><summary>{swatch(placed.style(series[id(run)])) if id(run) in series else ''}"
        f"<span>{breakable(names[run.name])}</span>{status(run)}</summary>"
        f"<dl>{_manifest(run)}</dl></details>"
        for run in ordered
    )
    if len(ordered) > MOST_ROWS:
        items = f"<details><summary>Manifests of {len(ordered)} runs</summary>{items}</details>"
    return card("runs", f"Runs ({len(ordered)})", items)


def _manifest(run: Run) -> str:
    known = run.manifest
    device = [known.get("device"), known.get("gpu"), _counted(known.get("threads"), "thread")]
    versions = known.get("versions")
    entries: dict[str, tuple[str, object]] = {
        "error": ("", run.error),
        "command": ("code", known.get("command")),
        "folder": ("code", run.folder),
        "time": ("", " to ".join(_present([known.get("started"), known.get("ended")]))),
        "device": ("", ", ".join(_present(device))),
        "commit": ("code", known.get("git_commit")),
        "versions": ("", _pairs(versions)),
        "data": ("", known.get("data")),
        "data SHA-256": ("code", known.get("data_sha256")),
        "doubts": ("", " ".join(run.doubts.values())),
        "diverged at step": ("", known.get("diverged_at")),
        "restores": ("", known.get("restores")),
        "damaged": ("", "; ".join(run.warnings)),
    }
    return "".join(
        f'<dt>{name}</dt><dd class="{kind}">{escape(entry)}</dd>'
        for name, (kind, entry) in entries.items()
        if entry not in (None, "", 0)
    )


def _present(entries: Iterable[object]) -> list[str]:
    return [str(entry) for entry in entries if entry is not None]


def _counted(count: object, name: str) -> str | None:
    return None if count is None else f"{count} {name}{'s' * (count != 1)}"


def _pairs(entries: object) -> str:
    if not isinstance(entries, dict):
        return ""
    return ", ".join(f"{name} {version}" for name, version in entries.items())


SECTIONS = (
    overview.across,
    results,
    overview.reached,
    step_charts.section,
    failures,
    learned,
    differing,
    runs,
)
