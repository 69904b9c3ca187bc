"""Pieces of HTML that several parts of the page share."""

import html
from collections.abc import Iterable, Sequence

from bilevel_cli.records.plain import plain
from bilevel_cli.report.read.runs import Run
from bilevel_cli.report.show.palette import Style, style
from bilevel_cli.vocabulary import ENDED_BADLY


def escape(value: object) -> str:
    """A value as text in HTML, which neither tags nor ends of attributes in it can leave."""
    return html.escape(plain(str(value)), quote=True)


def breakable(name: str) -> str:
    """The name of a run as HTML. A line may break after its commas."""
    return escape(name).replace(",", ",<wbr>")


def swatch(number: int) -> str:
    """A short piece of the line of a series, for legends."""
    looks = style(number)
    line = f'<path d="M0 5H30" stroke="var(--c{looks.colour})"{dashes(looks, 2.5)}/>'
    return f'<svg class="swatch" viewBox="0 0 30 10" aria-hidden="true">{line}</svg>'


def dashes(looks: Style, width: float) -> str:
    """The attribute of a line in SVG that is as wide; "" of a solid one."""
    strokes = " ".join(f"{length * width:g}" for length in looks.dash)
    return f' stroke-dasharray="{strokes}"' if strokes else ""


def picture(label: str, width: float, height: float, marks: str) -> str:
    """Marks as SVG, with what they show in words."""
    box = f"0 0 {width} {height:.0f}"
    return f'<svg viewBox="{box}" role="img" aria-label="{escape(label)}">{marks}</svg>'


def badge(kind: str, text: str) -> str:
    """A few words in the colours of a standing, or in those of "bad" or "plain"; "" of none."""
    return f'<span class="badge {kind}">{escape(text)}</span>' if text else ""


def status(run: Run) -> str:
    return badge("bad" if run.status in ENDED_BADLY else "plain", run.status)


def card(name: str, title: str, content: str) -> str:
    return (
        f'<section class="card" id="{name}" aria-labelledby="{name}-title">'
        f'<h2 id="{name}-title">{title}</h2>{content}</section>'
    )


def listed(lines: Sequence[str], kind: str) -> str:
    """Sentences as a list; "" of none."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="{kind}">{items}</ul>' if items else ""


def table_of(name: str, head: Iterable[str], rows: Iterable[str]) -> str:
    """A table in a box of its own, in which it scrolls where it is too wide."""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(name)}"><table>'
        f"<thead><tr>{''.join(head)}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def headed(first: str, others: Iterable[str]) -> list[str]:
    """The head of a table whose first column names its rows."""
    return [
        f'<th scope="col" class="text">{first}</th>',
        *(f'<th scope="col">{one}</th>' for one in others),
    ]


def row_of(label: str, cells: Iterable[str]) -> str:
    """A row of such a table."""
    return f'<tr><th scope="row" class="label">{label}</th>{"".join(cells)}</tr>'


def short_names(runs: Sequence[Run]) -> dict[str, str]:
    """The names of runs without the parts between commas that all of them have."""
    parts = {run.name: run.name.split(",") for run in runs}
    common = set.intersection(*map(set, parts.values())) if len(parts) > 1 else set()
    return {
        name: ",".join(part for part in some if part not in common) or name
        for name, some in parts.items()
    }
