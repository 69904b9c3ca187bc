"""What differs between configurations besides their settings, such as data or hardware."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from bilevel_cli.records.plain import plain
from bilevel_cli.report.compare.configurations import Configuration
from bilevel_cli.report.read.runs import Run

LONGEST = 80  # letters of a circumstance; a checksum has 64


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
            named = "; ".join(f"{label}: {sha}" for sha, label in labels.items())
            return [
                f"UNFAIR: the data differ between configurations, so the scores are of different "
                f"problems (data_sha256 at seed {seed}: {named})."
            ]
    return []


def _circumstances(configurations: Sequence[Configuration]) -> list[str]:
    lines = []
    for name, value in CIRCUMSTANCES.items():
        sets = {
            frozenset(value(run) for run in configuration.runs if run.manifest)
            for configuration in configurations
        } - {frozenset()}
        if len(sets) > 1:
            counts = Counter(
                value(run) for one in configurations for run in one.runs if run.manifest
            )
            found = ", ".join(f"{said} in {count}" for said, count in sorted(counts.items()))
            lines.append(f"Not the same in all configurations: {name} ({found} runs).")
    return lines


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
