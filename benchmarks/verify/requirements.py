"""What has to be installed, and is not."""

import tomllib
from collections.abc import Callable, Iterable
from importlib import metadata

from benchmarks.verify.simulation import ROOT

# Besides what the package asks for: what reads requirements, and what runs the tests.
BESIDES = ("packaging", "pytest")
# Its own requirements are parts of CUDA, which come in several ways.
WHOLE = "torch"


def missing(
    required: Callable[[str], Iterable[str]] = lambda name: metadata.requires(name) or [],
) -> list[str]:
    """The distributions that the package, the tests and what they ask for need and that are absent.

    Args:
        required: The requirements of a distribution; raises where it is not installed.
    """
    with (ROOT / "pyproject.toml").open("rb") as file:
        asked = tomllib.load(file)["project"]["dependencies"]
    try:
        from packaging.requirements import Requirement  # here: it may be what is missing
    except ImportError:
        return ["packaging"]
    waiting = [*map(Requirement, asked), *map(Requirement, BESIDES)]
    known: dict[str, bool] = {}
    while waiting:
        one = waiting.pop()
        if one.name in known or (one.marker and not one.marker.evaluate({"extra": ""})):
            continue
        try:
            found = list(required(one.name))
            known[one.name] = True
        except metadata.PackageNotFoundError:
            known[one.name] = False
            continue
        if one.name != WHOLE:
            waiting += map(Requirement, found)
    return sorted(name for name, there in known.items() if not there)
