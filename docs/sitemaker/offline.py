"""Finds what a built site would fetch from another host: python docs/sitemaker/offline.py FOLDER

Links that a reader may follow are no such thing. Scripts, style sheets, fonts and pictures are.
"""

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

ELSEWHERE = re.compile(r"^\s*(?:[a-z][a-z+.-]*:)?//", re.IGNORECASE)
# What a style sheet loads: url(...), and @import, which needs no url().
LOADED = re.compile(r"""url\(\s*["']?([^"')]+)|@import\s+["']([^"']+)""", re.IGNORECASE)
FETCHING = {"src", "srcset", "poster", "data", "background"}
# Relations of <link> that make a browser fetch; the others tell search engines where things are.
FETCHED = {"stylesheet", "icon", "preload", "modulepreload", "prefetch", "preconnect", "manifest"}


def fetched(page: str) -> list[str]:
    """The addresses on other hosts that a browser asks when it opens this HTML."""
    reader = _Reader()
    reader.feed(page)
    return [address for address in reader.found if ELSEWHERE.match(address)]


def loaded(sheet: str) -> list[str]:
    """The addresses on other hosts that this style sheet loads."""
    found = (match[1] or match[2] for match in LOADED.finditer(sheet))
    return [address for address in found if ELSEWHERE.match(address)]


def offenders(folder: Path) -> Iterator[str]:
    """A line for each address on another host that a file below `folder` loads."""
    for path in sorted(folder.rglob("*")):
        read = {".html": fetched, ".css": loaded, ".svg": fetched}.get(path.suffix)
        if read is not None:
            for address in read(path.read_text(encoding="utf-8")):
                yield f"{path.relative_to(folder)} loads {address}"


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.in_style = tag == "style"
        for name, value in given.items():
            if name == "srcset":
                self.found += [part.split()[0] for part in value.split(",") if part.split()]
            elif name in FETCHING:
                self.found.append(value)
            elif name == "style":
                self.found += loaded(value)
        relations = set(given.get("rel", "").lower().split())
        if (tag == "link" and relations & FETCHED) or tag in ("image", "use"):
            self.found += [given.get("href", ""), given.get("xlink:href", "")]

    def handle_endtag(self, tag: str) -> None:
        self.in_style = False

    def handle_data(self, data: str) -> None:
        if self.in_style:
            self.found += loaded(data)


if __name__ == "__main__":
    found = list(offenders(Path(sys.argv[1])))
    print("\n".join(found) or f"Nothing below {sys.argv[1]} is loaded from another host.")
    sys.exit(1 if found else 0)
