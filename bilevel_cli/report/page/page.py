"""The page: one HTML file that fetches nothing, so that it works from a disk and for years."""

import json
import re
import string
from collections.abc import Mapping, Sequence
from pathlib import Path

from bilevel_cli import __version__
from bilevel_cli.errors import UsageError
from bilevel_cli.report.across.told import headline
from bilevel_cli.report.compare.comparison import Report
from bilevel_cli.report.costs import axes
from bilevel_cli.report.page import numbers
from bilevel_cli.report.page.markup import escape, listed, swatch
from bilevel_cli.report.page.sections import SECTIONS
from bilevel_cli.report.show.lineup import Entry, lineup
from bilevel_cli.report.show.palette import COLOURS

ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("scale.js", "curves.js", "page.js")  # in this order

NUMBER = re.compile(r"\S+ \u00b1 \S+|\S+ \[\S+, \S+\]")  # with its interval, in one line
MOST_LINES = 5  # sentences below the headline before the others are folded
OWN = '<option value="">each task\'s own</option>'
TABLES = {"eval": "Scores", "train": "Training"}  # what the list of metrics calls the two tables


def write(report: Report, path: Path) -> None:
    """Writes the page.

    Args:
        report: The comparison.
        path: The file.

    Raises:
        UsageError: plotly is missing, or the file cannot be written.
    """
    try:
        from plotly.offline import get_plotlyjs  # here: only the page needs it
    except ImportError as error:
        raise UsageError(
            "--html needs plotly, got a Python without it. pip install 'bilevel-cli[report]'"
        ) from error
    page = html(report, get_plotlyjs())
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"--html needs a file that can be written, got {path}: {error.strerror}."
        ) from error


def html(report: Report, plotly: str) -> str:
    """The page.

    Args:
        report: The comparison.
        plotly: The code of plotly.js.
    """
    assert "</script" not in plotly.lower(), "plotly.js would end its own script"
    data = numbers.data(report)
    count = len(report.configurations)
    title = f"{report.metric or 'Runs'}, {count} configuration{'s' * (count != 1)}"
    return string.Template(_asset("page.html")).substitute(
        title=escape(title),
        css=_colours() + _asset("page.css"),
        headline=NUMBER.sub(_unbroken, escape(headline(report, "\u00b1"))),
        statements=_lines(report.statements, "statements") + _lines(report.warnings, "warnings"),
        metrics=OWN * (data["metric"] == "")
        + "".join(_metrics(data["metrics"], table) for table in TABLES),
        axes="".join(_axis(axis, name) for axis, name in axes().items()),
        plot_label=escape(f"Curves of {title}. The numbers are in the table."),
        legend="".join(_entry(number, one) for number, one in enumerate(lineup(report).entries)),
        sections="\n".join(section(report) for section in SECTIONS),
        footer=f"Written by bilevel-report {__version__}. Nothing on this page is fetched.",
        data=embedded(data),
        plotly=plotly,
        js="\n".join(map(_asset, SCRIPTS)),
    )


def embedded(data: object) -> str:
    """Data as JSON in which no HTML parser finds the end of the script around it.

    Args:
        data: Without NaN, which is no JSON.
    """
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _unbroken(found: re.Match[str]) -> str:
    return found[0].replace(" ", "&nbsp;")


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _colours() -> str:
    pairs = [f"--c{i}: light-dark({light}, {dark});" for i, (light, dark) in enumerate(COLOURS)]
    return f":root {{ {' '.join(pairs)} }}\n"


def _lines(lines: Sequence[str], kind: str) -> str:
    """A list of sentences. A page of them is folded, so that the curves stay in sight."""
    if len(lines) <= MOST_LINES + 1:
        return listed(lines, kind)
    folded = f"<summary>{len(lines) - MOST_LINES} more</summary>{listed(lines[MOST_LINES:], kind)}"
    return f"{listed(lines[:MOST_LINES], kind)}<details>{folded}</details>"


def _metrics(metrics: Mapping[str, str], table: str) -> str:
    options = "".join(
        f'<option value="{escape(name)}">{escape(name)}</option>'
        for name, source in metrics.items()
        if source == table
    )
    return f'<optgroup label="{TABLES[table]}">{options}</optgroup>' if options else ""


def _axis(axis: str, name: str) -> str:
    return f'<label><input type="radio" name="axis" value="{axis}"><span>{name}</span></label>'


def _entry(number: int, entry: Entry) -> str:
    pressed = str(entry.front).lower()
    ranked = ' class="ranked"' if entry.ranked else ""
    return (
        f'<li{ranked}><button type="button" data-entry="{number}" aria-pressed="{pressed}">'
        f"{swatch(entry.style)}<span>{escape(entry.label)}</span></button></li>"
    )
