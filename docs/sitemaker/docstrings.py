"""Docstrings, which are plain text, as the reStructuredText that autodoc wants."""

import re
from typing import Any

from sphinx.application import Sphinx

from sitemaker.markdown import SECTIONS

SPECIAL = re.compile(r"([\\*_|])")


def setup(app: Sphinx) -> None:
    # Before napoleon, which makes lists of fields of the sections.
    app.connect("autodoc-process-docstring", _process, priority=100)
    app.connect("autodoc-skip-member", _skip)


def restructured(lines: list[str]) -> list[str]:
    """The lines with code as code, formulas as blocks, and nothing else that is markup."""
    out: list[str] = []
    section = block = False
    for line in lines:
        if SECTIONS.match(line):
            section = True
        elif line and not line.startswith(" "):
            section = False
        if section:
            out.append(line if SECTIONS.match(line) else escaped(line))
            continue
        if line.startswith("    ") and not block:
            out += ["::", ""]
            block = True
        elif line and not line.startswith(" "):
            if block:
                out.append("")
            block = False
        out.append(line if block else escaped(line))
    return out


def escaped(line: str) -> str:
    """One line, with its single backticks doubled."""
    marker = re.match(r"^(\s*[*-] )(.*)", line)
    if marker:
        return marker[1] + escaped(marker[2])
    name = re.match(r"^(\s+\w+: )(.*)", line)  # an argument: napoleon escapes its name itself
    if name:
        return name[1] + escaped(name[2])
    pieces = re.split(r"(`[^`]+`)", line)
    return "".join(
        f"`{piece}`"
        if len(piece) > 2 and piece[0] == piece[-1] == "`"
        else SPECIAL.sub(r"\\\1", piece)
        for piece in pieces
    )


def _process(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    lines[:] = restructured(lines)


def _skip(app: Sphinx, what: str, name: str, thing: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out the fields of named tuples, which their docstrings list already."""
    return True if type(thing).__name__ == "_tuplegetter" else None
