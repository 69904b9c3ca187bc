"""The page of suspicious rows: one HTML file that fetches nothing and runs nothing."""

import string
from collections.abc import Sequence
from pathlib import Path

from bilevel_cli import __version__
from bilevel_cli.labels.show_rows import Suspect
from bilevel_cli.report.page.markup import escape
from bilevel_cli.report.page.page import ASSETS

TEMPLATE = Path(__file__).parent / "assets" / "rows.html"


def html(title: str, notes: Sequence[str], rows: Sequence[Suspect], target: str) -> str:
    """The page, in the look of the report's.

    Args:
        title: How many labels are wrong.
        notes: What a reader must know, a sentence each.
        rows: To show, the most suspicious first.
        target: The column of labels.
    """
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return string.Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(title),
        css=(ASSETS / "page.css").read_text(encoding="utf-8"),
        notes=f'<ul class="statements">{items}</ul>',
        rows="\n".join(_row(row, target) for row in rows),
        footer=escape(f"Written by bilevel-labels {__version__}. Nothing on this page is fetched."),
    )


def _row(row: Suspect, target: str) -> str:
    pairs = "".join(
        f"<div><dt>{escape(title)}</dt><dd>{escape(text) or '&mdash;'}</dd></div>"
        for title, text in row.contents.items()
    )
    return (
        f'<article class="card"><h2>{row.rank}. Row {escape(row.name)}</h2>'
        f"<p>{escape(target)} is <b>{escape(row.given)}</b>, suggested "
        f'<b>{escape(row.suggested)}</b><span class="badge tie">wrong: {row.confidence:.0%}</span>'
        f"</p><dl>{pairs}</dl></article>"
    )
