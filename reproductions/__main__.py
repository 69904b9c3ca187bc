"""`python -m reproductions`: runs what is missing, and writes the page."""

import argparse
import time
from pathlib import Path

from reproductions.carry_out import carry_out
from reproductions.item import items
from reproductions.page import write

OUTPUTS = Path("outputs/reproductions")
PAGE = Path("docs/reproductions.md")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m reproductions", description=__doc__)
    parser.add_argument("what", choices=["quick", "full", "page"])
    parser.add_argument("--only", nargs="+", choices=list(items()), help="these items alone")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one core each")
    parser.add_argument("--outputs", type=Path, default=OUTPUTS, help="folder of the runs")
    parser.add_argument("--page", type=Path, help="that of all items is docs/reproductions.md")
    given = parser.parse_args()
    chosen = {name: item for name, item in items().items() if name in (given.only or items())}
    # A page of some items never replaces the published one.
    page = given.page or (given.outputs / "page.md" if given.only else PAGE)
    since = time.perf_counter()
    if given.what != "page":
        carry_out(chosen, given.outputs, given.what == "quick", given.jobs)
    write(chosen, given.outputs, page)
    print(f"{time.perf_counter() - since:.0f} seconds")


if __name__ == "__main__":
    main()
