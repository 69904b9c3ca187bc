"""The public names, on a page for each group of them: reStructuredText for autodoc."""

import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

import bilevel_cli
from sitemaker.docstrings import escaped
from sitemaker.markdown import underlined


def pages() -> Iterator[tuple[str, str]]:
    """Names of files with their contents."""
    groups = _groups()
    slugs = {title: re.sub(r"\W+", "-", title.lower()).strip("-") for title in groups}
    lines = [
        underlined("Python"),
        "",
        "The names that ``from bilevel_cli import ...`` knows. They stay where files move.",
        "",
        *_table([name for names in groups.values() for name in names]),
        ".. toctree::",
        "   :maxdepth: 1",
        "",
        *(f"   {slug}" for slug in slugs.values()),
    ]
    yield "python/index", "\n".join(lines) + "\n"
    for title, names in groups.items():
        entries = [_entry(name) for name in names]
        yield f"python/{slugs[title]}", "\n\n".join([underlined(title), *entries]) + "\n"


def _table(names: list[str]) -> Iterator[str]:
    """A row for each name, with the first sentence of what it is."""
    yield from (".. list-table::", "   :widths: 25 75", "")
    for name in names:
        thing = getattr(bilevel_cli, name)
        if inspect.ismodule(thing):
            role, full = "mod", thing.__name__
        else:
            role = (
                "class"
                if inspect.isclass(thing)
                else "func"
                if inspect.isfunction(thing)
                else "data"
            )
            full = f"bilevel_cli.{name}"
        yield f"   * - :py:{role}:`{name} <{full}>`"
        yield f"     - {escaped(_first_sentence(name, thing))}"
    yield ""


def _first_sentence(name: str, thing: Any) -> str:
    documented = inspect.ismodule(thing) or inspect.isclass(thing) or inspect.isfunction(thing)
    text = inspect.getdoc(thing) if documented else _comment(bilevel_cli.HOMES[name], name)
    first = " ".join((text or f"`{_shown(thing)}`").split("\n\n")[0].split())
    return re.split(r"(?<=\.)\s", first)[0]


def _groups() -> dict[str, list[str]]:
    """The names by the comments that stand above them in `bilevel_cli.HOMES`."""
    source = inspect.getsource(bilevel_cli).partition("HOMES = {")[2].partition("\n}")[0]
    found: dict[str, list[str]] = {}
    title = "Names"
    for line in source.splitlines():
        if comment := re.match(r"\s+# (.*?)\.?$", line):
            title = comment[1]
        elif name := re.match(r'\s+"(\w+)":', line):
            found.setdefault(title, []).append(name[1])
    return found


def _entry(name: str) -> str:
    """The directive for one name; a heading above it, for the list beside the page."""
    thing = getattr(bilevel_cli, name)
    return f"{underlined(name, '-')}\n\n{_directive(name, thing)}"


def _directive(name: str, thing: Any) -> str:
    if inspect.ismodule(thing):
        return f".. automodule:: {thing.__name__}\n   :members:"
    if inspect.isclass(thing):
        return f".. autoclass:: bilevel_cli.{name}\n   :members:"
    if inspect.isfunction(thing):
        return f".. autofunction:: bilevel_cli.{name}"
    home = bilevel_cli.HOMES[name]
    what = _comment(home, name)
    return f".. py:data:: bilevel_cli.{name}\n   :value: {_shown(thing)}\n\n   {what}"


def _shown(thing: Any) -> str:
    """A type as one writes it, `dict[str, Tensor]`."""
    return re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", str(thing))


def _comment(module: str, name: str) -> str:
    """The comment above or behind the line that makes a name."""
    lines = inspect.getsource(importlib.import_module(module)).splitlines()
    number = next(i for i, line in enumerate(lines) if line.startswith(f"{name} = "))
    behind = lines[number].partition("  # ")[2]
    above: list[str] = []
    while lines[number - 1].startswith("# "):
        number -= 1
        above.insert(0, lines[number].removeprefix("# "))
    return " ".join([*above, behind]).strip()
