"""Markdown from what the code says in plain text."""

import inspect
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from docutils.utils import column_width

SECTIONS = re.compile(r"^(Args|Attributes|Returns|Raises|Yields):$")
PAPER = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
SPECIAL = re.compile(r"([\\*_<>$\[\]|#{}~])")


class Docstring(NamedTuple):
    """A docstring in the house style.

    Attributes:
        body: What stands above its sections, as it was written.
        args: The text for each name of Args or Attributes, on one line.
    """

    body: str
    args: dict[str, str]


def docstring(thing: Any) -> Docstring:
    """That of a class or function, its own or inherited."""
    lines = (inspect.getdoc(thing) or "").splitlines()
    body: list[str] = []
    args: dict[str, str] = {}
    section, name = "", ""
    for line in lines:
        if found := SECTIONS.match(line):
            section = found[1]
        elif not section:
            body.append(line)
        elif line and not line.startswith(" "):
            section = ""
            body.append(line)
        elif section in ("Args", "Attributes") and line.strip():
            if found := re.match(r"^    (\w+): *(.*)", line):
                name = found[1]
                args[name] = found[2]
            elif name:
                args[name] += " " + line.strip()
    return Docstring("\n".join(body).strip(), args)


def papers(text: str) -> list[str]:
    """The arXiv numbers that a text names, in order."""
    return list(dict.fromkeys(PAPER.findall(text)))


def prose(text: str) -> str:
    """Plain text as Markdown: paragraphs, lists, and formulas where lines are indented."""
    out: list[str] = []
    block: list[str] = []
    for line in [*text.splitlines(), "."]:
        if line.startswith("    ") or (block and not line.strip()):
            block.append(line.removeprefix("    "))
            continue
        if block:
            out += ["```text", *"\n".join(block).rstrip().splitlines(), "```", ""]
            block = []
        out.append(escaped(line))
    return "\n".join(out[:-1]).strip()


def escaped(text: str) -> str:
    """Plain text as one piece of Markdown; what stands between backticks is code, as it was."""
    pieces = re.split(r"(`[^`]+`)", text)
    plain = (
        piece if piece.startswith("`") and len(piece) > 2 else _plain(piece) for piece in pieces
    )
    return "".join(plain)


def _plain(text: str) -> str:
    marker = re.match(r"^(\s*[*-] )(.*)", text)
    if marker:
        return marker[1] + _plain(marker[2])
    safe = SPECIAL.sub(r"\\\1", text)
    return PAPER.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", safe)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [list(head), ["---"] * len(head), *map(list, rows)]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    """A cell: in GitHub's tables a bar divides, also between backticks."""
    return re.sub(r"(?<!\\)\|", r"\\|", " ".join(text.split()))


def code(text: str, language: str = "sh") -> str:
    return f"```{language}\n{text}\n```"


def page(title: str, *parts: str) -> str:
    """A page: its title, then its parts but for those that are empty."""
    return "\n\n".join([f"# {title}", *(part for part in parts if part)]) + "\n"


def section(title: str, *parts: str, level: int = 2) -> str:
    """A section, or nothing where all of its parts are empty."""
    found = [part for part in parts if part]
    return "\n\n".join([f"{'#' * level} {title}", *found]) if found else ""


def contents(pages: Iterable[str], depth: int = 1) -> str:
    """A list of pages for the site's navigation alone."""
    return "\n".join(["```{toctree}", ":hidden:", f":maxdepth: {depth}", "", *pages, "```"])


def sentence(line: str) -> str:
    """One line of plain text with a capital and a full stop; but dF/dlambda stays what it is."""
    first = line[0] if line[1:2].isupper() else line[0].upper()
    return escaped(f"{first}{line[1:]}.")


def underlined(title: str, mark: str = "=") -> str:
    """A heading of reStructuredText."""
    return f"{title}\n{mark * column_width(title)}"
