"""What has to be installed, and is not."""

import tomllib
from collections.abc import Callable, Iterable
from importlib import metadata

from benchmarks.verify.simulation import ROOT

# Besides what the package asks for: what reads requirements, and what the tests import.
BESIDES = ("packaging", "pytest", "hypothesis")
# Its own requirements are parts of CUDA, which come in several ways.
WHOLE = "torch"


def missing(
    required: Callable[[str], Iterable[str]] = lambda name: metadata.requires(name) or [],
    version: Callable[[str], str] = metadata.version,
) -> list[str]:
    """What the package, the tests and what they ask for need, and what is not there for it.

    Args:
        required: The requirements of a distribution; raises where it is not installed.
        version: Its version.

    Returns:
        As pip is given it, such as "pooch" or "omegaconf<2.4,>=2.3"; with the version that is
        there, if it is another.
    """
    with (ROOT / "pyproject.toml").open("rb") as file:
        asked = tomllib.load(file)["project"]["dependencies"]
    try:
        from packaging.requirements import Requirement  # here: it may be what is missing
    except ImportError:
        return ["packaging"]
    waiting = [*map(Requirement, asked), *map(Requirement, BESIDES)]
    looked_at: set[str] = set()
    found: set[str] = set()
    while waiting:
        one = waiting.pop()
        if str(one) in looked_at or (one.marker and not one.marker.evaluate({"extra": ""})):
            continue
        looked_at.add(str(one))
        words = f"{one.name}{one.specifier}"
        try:
            further = list(required(one.name))
            if not one.specifier.contains(there := version(one.name), prereleases=True):
                found.add(f"{words} (has {there})")
        except metadata.PackageNotFoundError:
            found.add(words)
            continue
        if one.name != WHOLE:
            waiting += map(Requirement, further)
    return sorted(found)
