"""A comparison for other programs: Markdown, LaTeX, CSV."""

import csv
from pathlib import Path

from bilevel_cli.report.compare.comparison import BEST, Report
from bilevel_cli.report.compare.configurations import text
from bilevel_cli.report.costs import columns
from bilevel_cli.report.read.runs import plain
from bilevel_cli.report.show import cells, terminal

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
} | {letter: f"\\{letter}" for letter in "&%$#_{}"}


def markdown(report: Report) -> str:
    """The sentences and the table, the best in bold."""
    head, *rows = terminal.columns(report)
    marked = [
        (label, f"**{number}**" if row.mark == BEST else number, *others)
        for (label, number, *others), row in zip(rows, report.rows, strict=True)
    ]
    rule = (":---", *(["---:"] * (len(head) - 1)))
    table = [
        "| " + " | ".join(cell.replace("\\", "\\\\").replace("|", "\\|") for cell in row) + " |"
        for row in (head, rule, *marked)
    ]
    return "\n".join([*report.statements, "", *table])


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
    """Writes the LaTeX table; a letter that UTF-8 does not have becomes a question mark."""
    path.write_text(latex(report), encoding="utf-8", errors="replace")


def write_csv(report: Report, path: Path) -> None:
    """Writes every number in full, and a column for each option that names configurations."""
    options = dict.fromkeys(name for one in report.configurations for name in one.differing)
    statuses = sorted({status for row in report.rows for status in row.counts})
    doubts = any(row.doubtful for row in report.rows)
    with path.open("w", newline="", encoding="utf-8", errors="replace") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["configuration", *options, report.metric or "score", *("low", "high", "n", "mark")]
            + statuses
            + ["doubts"] * doubts
            + [f"mean_{cost}" for cost in columns()]
        )
        for row in report.rows:
            found, configuration = row.estimate, row.configuration
            writer.writerow(
                [configuration.label]
                + [text(configuration.differing.get(name, "")) for name in options]
                + [_full(value) for value in (found.value, found.low, found.high)]
                + [found.n, row.mark, *(row.counts.get(status, 0) for status in statuses)]
                + [row.doubtful] * doubts
                + [_full(row.costs.get(name)) for name in columns()]
            )


def _row(row: list[str]) -> str:
    return " & ".join(row) + r" \\"


def _exponent(number: str) -> str:
    """The power of ten of (1.2 +- 0.3)e-05 as LaTeX writes it."""
    mantissa, _, power = number.rpartition("e")
    return rf"{mantissa} \cdot 10^{{{int(power)}}}" if mantissa else number


def _full(value: float | None) -> str:
    return "" if value is None or value != value else repr(float(value))
