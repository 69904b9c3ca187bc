"""The records of docs/related/, one for each related system, and the page that they make."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

from sitemaker.markdown import code, section

FOLDER = Path(__file__).parents[1] / "related"
PAPER = re.compile(r"arXiv[: ](\d{4}\.\d{4,5})")

# The verdicts, and what each says of a system.
VERDICTS = {
    "works": "Each of these runs by the command below it.",
    "in part": "Something of each of these is here, and its text says what is missing.",
    "no part here": "These solve another problem, or one of which no task is here.",
}


class System(NamedTuple):
    """A system, as its record describes it.

    Attributes:
        title: What it is called, with the subject of the paper.
        source: Authors, venue, year, and its number on arXiv.
        verdict: One of `VERDICTS`.
        what: What the system is, as Markdown with links as from docs/.
        here: What of it is here; or why it has no part, with the evidence.
        command: A line that runs it; None where there is none.
        order: Where it stands on the page, after the systems with smaller numbers.
    """

    title: str
    source: str
    verdict: str
    what: str
    here: str
    command: str | None
    order: int


def systems() -> list[System]:
    """All systems, in the order of the page.

    Raises:
        TypeError: A record lacks a field, or has one that no system has.
    """
    records = [yaml.safe_load(path.read_text("utf-8")) for path in sorted(FOLDER.glob("*.yaml"))]
    return sorted((System(**record) for record in records), key=lambda one: one.order)


def text() -> str:
    """What the page says of all systems, a section for each verdict."""
    found = systems()
    return "\n\n".join(
        section(_heading(verdict), meaning, *_entries(found, verdict))
        for verdict, meaning in VERDICTS.items()
    )


def _heading(verdict: str) -> str:
    return verdict[0].upper() + verdict[1:]


def _entries(found: list[System], verdict: str) -> Iterator[str]:
    for system in found:
        if system.verdict != verdict:
            continue
        source = PAPER.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", _flowing(system.source))
        run = code(_flowing(system.command)) if system.command else ""
        parts = (f"*{source}*", _flowing(system.what), f"**Here:** {_flowing(system.here)}", run)
        yield section(_flowing(system.title), *parts, level=3)


def _flowing(text: str) -> str:
    """A text in one line: a record may break it anywhere."""
    return " ".join(text.split())
