"""Writes the pages of the reference, before Sphinx looks which pages there are."""

from collections.abc import Iterator
from pathlib import Path

from sitemaker import commands, methods, python, settings, shelves, tasks


def write(docs: Path) -> None:
    """Writes all pages below reference/generated/, and leaves alone those that have not changed."""
    folder = docs / "reference" / "generated"
    written = set()
    for name, text in _pages():
        path = folder / f"{name}{'.rst' if name.startswith('python/') else '.md'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
        written.add(path)
    for path in folder.rglob("*.*"):  # of options that are no more
        if path not in written:
            path.unlink()


def _pages() -> Iterator[tuple[str, str]]:
    yield from methods.pages()
    yield from tasks.pages()
    yield from shelves.pages()
    yield "settings", settings.text()
    yield "commands", commands.text()
    yield from python.pages()
