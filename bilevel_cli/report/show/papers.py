"""A comparison for other programs: Markdown, LaTeX, CSV."""

import re
from collections.abc import Sequence
from pathlib import Path

from bilevel_cli.records.plain import plain
from bilevel_cli.report.compare.comparison import BEST, LEVEL, Report, Row
from bilevel_cli.report.compare.configurations import text
from bilevel_cli.report.compare.step_sweep import numbers
from bilevel_cli.report.costs import columns
from bilevel_cli.report.show import cells, formulas, terminal
from bilevel_cli.report.show.headline import headline

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
_POWER = re.compile(r"e([+-]\d+)")


def markdown(report: Report) -> str:
    """The headline, the sentences and the table, the best in bold."""
    (first, metric, *heads), *rows = terminal.columns(report)
    marked = [
        (marked_down(label), _bold(number, row), *others)
        for (label, number, *others), row in zip(rows, report.rows, strict=True)
    ]
    table = piped([(first, marked_down(metric), *heads), *marked])
    said = map(marked_down, report.statements)
    return "\n".join([f"**{marked_down(headline(report))}**", "", *said, "", table])


def piped(table: Sequence[Sequence[str]]) -> str:
    """A head and rows of Markdown as a table, its first column to the left."""
    head, *rows = table
    rule = (":---", *(["---:"] * (len(head) - 1)))
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *rows))


def _bold(number: str, row: Row) -> str:
    return f"**{number}**" if row.standing.kind == BEST else number


def marked_down(text: str) -> str:
    """Text as Markdown shows it."""
    return _MARKDOWN.sub(r"\\\g<0>", text)


def latex(report: Report) -> str:
    """A booktabs table, the best in bold and those level with it underlined.

    The headline and the sentences are comments above it.
    """
    (first, metric, *heads), *rows = terminal.columns(report)
    named = ["$n$" if head == "n" else escaped(head) for head in heads]
    body = [
        [escaped(label), formula(number, row), *map(escaped, others)]
        for (label, number, *others), row in zip(rows, report.rows, strict=True)
    ]
    aligned = "".join("l" if head == terminal.COMPARED else "r" for head in heads)
    said = [headline(report), *report.statements]
    return tabular(said, f"ll{aligned}", [[first, escaped(metric), *named]], body)


def tabular(
    said: Sequence[str],
    aligned: str,
    heads: Sequence[Sequence[str]],
    body: Sequence[Sequence[str]],
) -> str:
    """A booktabs table.

    Args:
        said: Lines of text for comments above it.
        aligned: The letter of each column, as LaTeX has them.
        heads: The rows of its head, in LaTeX.
        body: The rows below the head, likewise.
    """
    above, below = ([" & ".join(row) + r" \\" for row in rows] for rows in (heads, body))
    return "\n".join(
        [
            *(f"% {plain(line)}" for line in said),
            rf"\begin{{tabular}}{{{aligned}}}",
            r"\toprule",
            *above,
            r"\midrule",
            *below,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def formula(number: str, row: Row) -> str:
    """The number of a row in LaTeX, the best in bold, and underlined where it is level with it.

    Args:
        number: What stands there if the row has none.
        row: The row.
    """
    if not row.values:
        return escaped(number)
    found = _exponent(cells.estimate(row.estimate, r"\pm"))
    if row.standing.kind == BEST:
        return rf"$\mathbf{{{found}}}$"
    return rf"\underline{{${found}$}}" if row.standing.kind == LEVEL else f"${found}$"


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
    swept = numbers(report)
    by_steps = dict.fromkeys(name for found in swept.values() for name in found)
    lines: list[Sequence[object]] = [
        ["configuration", *options, report.metric or "score", *("low", "high", "n", "mark")]
        + [*("behind", "behind_low", "behind_high", "p", "p_needed", "pairs")]
        + statuses
        + ["doubts"] * doubts
        + [*(f"mean_{cost}" for cost in columns()), *by_steps]
    ]
    for row in report.rows:
        found, configuration = row.estimate, row.configuration
        lines.append(
            [configuration.label]
            + [text(configuration.differing.get(name, "")) for name in options]
            + [found.value, found.low, found.high, found.n, cells.mark(row), *_behind(row)]
            + [row.counts.get(status, 0) for status in statuses]
            + [row.doubtful] * doubts
            + [row.costs.get(name) for name in columns()]
            + [swept.get(id(row), {}).get(name) for name in by_steps]
        )
    formulas.write(path, lines)


def _behind(row: Row) -> list[object]:
    """By how much a row is worse than the best, where it was compared."""
    behind = row.standing.behind
    if behind is None:
        return [""] * 6
    by = behind.by
    return [by.value, by.low, by.high, behind.p, behind.limit, by.n]


def _exponent(number: str) -> str:
    """The power of ten of (1.2 +- 0.3)e-05 as LaTeX writes it."""
    return _POWER.sub(lambda power: rf" \cdot 10^{{{int(power[1])}}}", number)
