"""What differs between configurations besides their settings, such as data or hardware."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from bilevel_cli.records.plain import plain
from bilevel_cli.report.compare.configurations import Configuration
from bilevel_cli.report.read.runs import Run

LONGEST = 80  # letters of a circumstance; a checksum has 64
FEW = 6  # values that a line names


def unfair(configurations: Sequence[Configuration]) -> list[str]:
    """A line for each circumstance that is not the same in all configurations."""
    return [*_data(configurations), *_circumstances(configurations)]


def _data(configurations: Sequence[Configuration]) -> list[str]:
    """Says whether the data differ, seed by seed: each seed has its own split."""
    seen: dict[str, dict[str, str]] = {}
    for configuration in configurations:
        for run in configuration.runs:
            if "data_sha256" in run.manifest:
                of_seed = seen.setdefault(str(run.seed), {})
                of_seed.setdefault(_said(run.manifest["data_sha256"]), configuration.label)
    for seed, labels in seen.items():
        if len(labels) > 1:
            named = "; ".join(_few([f"{label}: {sha}" for sha, label in labels.items()]))
            return [
                f"UNFAIR: the data differ between configurations, so the scores are of different "
                f"problems (data_sha256 at seed {seed}: {named})."
            ]
    return []


def _circumstances(configurations: Sequence[Configuration]) -> list[str]:
    lines = []
    for name, value in CIRCUMSTANCES.items():
        sets, counts = set[frozenset[str]](), Counter[str]()
        for configuration in configurations:
            found = [value(run) for run in configuration.runs if run.manifest]
            sets.add(frozenset(found))
            counts.update(found)
        if len(sets - {frozenset()}) > 1:
            ordered = sorted(counts.items())
            if len(ordered) > FEW:  # over a year there are hundreds of commits
                ordered.sort(key=lambda pair: -pair[1])
            said = ", ".join(_few([f"{one} in {count}" for one, count in ordered]))
            lines.append(f"Not the same in all configurations: {name} ({said} runs).")
    return lines


def _few(parts: list[str]) -> list[str]:
    """The first parts of a sentence, and how many more there are."""
    return parts if len(parts) <= FEW else [*parts[: FEW - 1], f"{len(parts) - FEW + 1} others"]


def _entry(name: str) -> Callable[[Run], str]:
    return lambda run: _said(run.manifest.get(name))


def _version(name: str) -> Callable[[Run], str]:
    def value(run: Run) -> str:
        versions = run.manifest.get("versions")
        return _said(versions.get(name) if isinstance(versions, dict) else None)

    return value


def _commit(run: Run) -> str:
    commit, _, dirty = _said(run.manifest.get("git_commit")).partition("-")
    return commit[:12] + (f"-{dirty}" if dirty else "")


def _said(value: Any) -> str:
    return "none" if value is None else plain(str(value), LONGEST)


CIRCUMSTANCES: dict[str, Callable[[Run], str]] = {
    "commit": _commit,
    "bilevel-cli": _version("bilevel-cli"),
    "torch": _version("torch"),
    "device": _entry("device"),
    "gpu": _entry("gpu"),
    "threads": _entry("threads"),
}
