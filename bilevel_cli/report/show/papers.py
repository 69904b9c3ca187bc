"""A comparison for other programs: Markdown, LaTeX, CSV."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from bilevel_cli.records.plain import plain
from bilevel_cli.report.compare.comparison import BEST, Report
from bilevel_cli.report.compare.configurations import text
from bilevel_cli.report.costs import columns
from bilevel_cli.report.show import cells, terminal
from bilevel_cli.report.show.formulas import harmless

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    **{letter: f"{{{letter}}}" for letter in "[]*"},  # after the end of a row they are its options
}
# An underscore within a word is text already, and stays readable where Markdown is not rendered.
_MARKDOWN = re.compile(r"[\\`*\[\]<>|&~$]|(?<!\w)_|_(?!\w)|^[#+=-]")


def markdown(report: Report) -> str:
    """The sentences and the table, the best in bold."""
    (first, metric, *heads), *rows = terminal.columns(report)
    marked = [
        (_marked_down(label), f"**{number}**" if row.mark == BEST else number, *others)
        for (label, number, *others), row in zip(rows, report.rows, strict=True)
    ]
    rule = (":---", *(["---:"] * (1 + len(heads))))
    lines = [(first, _marked_down(metric), *heads), rule, *marked]
    table = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([*map(_marked_down, report.statements), "", *table])


def _marked_down(text: str) -> str:
    """Text as Markdown shows it."""
    return _MARKDOWN.sub(r"\\\g<0>", text)


def latex(report: Report) -> str:
    """A booktabs table, the best in bold and its ties underlined; the sentences as comments."""
    lines = cells.lines(report)
    costs = list(lines[0].costs) if lines else []
    others = any(line.others for line in lines)
    doubts = any(line.doubts for line in lines)
    head = [
        "configuration",
        report.metric or "score",
        "$n$",
        *(["others"] if others else []),
        *(["doubts"] if doubts else []),
        *costs,
    ]
    body = [_row([escaped(cell) if cell != "$n$" else cell for cell in head]), r"\midrule"]
    for line, row in zip(lines, report.rows, strict=True):
        number = escaped(line.number)
        if row.values:
            number = _exponent(cells.estimate(row.estimate, r"\pm"))
            number = rf"$\mathbf{{{number}}}$" if row.mark == BEST else f"${number}$"
        if row.mark not in ("", BEST):
            number = rf"\underline{{{number}}}"
        rest = [line.n, *([escaped(line.others)] if others else [])]
        rest += [*([line.doubts] if doubts else []), *line.costs.values()]
        body.append(_row([escaped(line.label), number, *rest]))
    return "\n".join(
        [
            *(f"% {plain(statement)}" for statement in report.statements),
            rf"\begin{{tabular}}{{ll{'r' * (len(head) - 2)}}}",
            r"\toprule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def escaped(label: str) -> str:
    """A label as LaTeX prints it."""
    return "".join(_LATEX.get(letter, letter) for letter in plain(label))


def write_latex(report: Report, path: Path) -> None:
    """Writes the LaTeX table."""
    path.write_text(latex(report), encoding="utf-8")


def write_csv(report: Report, path: Path) -> None:
    """Writes every number in full, and a column for each option that names configurations.

    No cell is a formula to a spreadsheet.
    """
    options = dict.fromkeys(name for one in report.configurations for name in one.differing)
    statuses = sorted({status for row in report.rows for status in row.counts})
    doubts = any(row.doubtful for row in report.rows)
    lines: list[Sequence[object]] = [
        ["configuration", *options, report.metric or "score", *("low", "high", "n", "mark")]
        + statuses
        + ["doubts"] * doubts
        + [f"mean_{cost}" for cost in columns()]
    ]
    for row in report.rows:
        found, configuration = row.estimate, row.configuration
        lines.append(
            [configuration.label]
            + [text(configuration.differing.get(name, "")) for name in options]
            + [_full(value) for value in (found.value, found.low, found.high)]
            + [found.n, row.mark, *(row.counts.get(status, 0) for status in statuses)]
            + [row.doubtful] * doubts
            + [_full(row.costs.get(name)) for name in columns()]
        )
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([harmless(cell) for cell in line] for line in lines)


def _row(row: list[str]) -> str:
    return " & ".join(row) + r" \\"


def _exponent(number: str) -> str:
    """The power of ten of (1.2 +- 0.3)e-05 as LaTeX writes it."""
    mantissa, _, power = number.rpartition("e")
    return rf"{mantissa} \cdot 10^{{{int(power)}}}" if mantissa else number


def _full(value: float | None) -> str:
    return "" if value is None or value != value else repr(float(value))
