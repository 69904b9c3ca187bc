"""The implementations to compare with: a file for each, found by globbing.

A file defines `unrolled`, `implicit` and `pessimistic`, as far as its library offers them: of a
`Case` they make a function of nothing that returns the hypergradient. NAME is what tables call it.
"""

import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.case import Case, Implementation

OUR_LAYERS = "plain autograd, our layers"  # no peer: what of a ratio is due to them


def implementations(case: Case, missing: list[str] | None = None) -> dict[str, Implementation]:
    """All that are installed and offer what the case asks for; the reference first.

    Args:
        case: The problem.
        missing: Where the names of those that could not be imported are added.
    """
    found: dict[str, Implementation] = {}
    files = sorted(Path(__file__).parent.glob("[!_]*.py"))
    for path in sorted(files, key=lambda path: path.stem != "plain"):
        try:
            peer = importlib.import_module(f"benchmarks.peers.{path.stem}")
        except ImportError:
            if missing is not None:
                missing.append(path.stem)
            continue
        make: Callable[[Case], Implementation] | None = getattr(peer, case.kind, None)
        if make:
            found[peer.NAME] = make(case)
    if case.ours_inside:
        shared = replace(case, model=case.ours_inside)
        found[OUR_LAYERS] = getattr(importlib.import_module("benchmarks.peers.plain"), case.kind)(
            shared
        )
    return found | {"ours": case.ours}
