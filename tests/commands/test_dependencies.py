"""What the project depends on: from which versions, and whether a flaw of them is known."""

import json
import tomllib
from pathlib import Path

from audit import verdict
from packaging.requirements import Requirement

CHECKOUT = Path(__file__).parents[2]


def lower_bounds(*extras: str) -> dict[str, str]:
    """The lowest version that pyproject.toml allows of each package a user gets."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"]]
    for extra in extras:
        asked += project["optional-dependencies"][extra]
    found = {}
    for requirement in map(Requirement, asked):
        (bound,) = (s.version for s in requirement.specifier if s.operator in (">=", "=="))
        found[requirement.name] = bound
    return found


def pinned(path: Path) -> dict[str, str]:
    lines = [line.partition("#")[0].strip() for line in path.read_text().splitlines()]
    return dict(line.split("==") for line in lines if line)


def test_the_oldest_versions_tested_are_the_oldest_allowed() -> None:
    def padded(version: str) -> list[int]:
        return [*map(int, version.split(".")), 0, 0][:3]

    oldest, allowed = pinned(CHECKOUT / "tests/oldest.txt"), lower_bounds("parallel", "report")
    assert oldest.keys() == allowed.keys()
    for name, version in allowed.items():
        assert padded(oldest[name]) == padded(version), name


def test_every_dependency_is_pinned() -> None:
    names = {name.lower().replace("_", "-") for name in pinned(CHECKOUT / "constraints.txt")}
    assert names >= {name.lower() for name in lower_bounds("parallel", "report", "slurm", "optuna")}


def test_an_audit_fails_for_a_known_flaw_alone_and_says_where_it_could_not_look() -> None:
    unknown = {"name": "a", "skip_reason": "not found"}
    fine = {"name": "b", "version": "1.0", "vulns": []}
    flawed = {**fine, "vulns": [{"id": "PYSEC-2024-1", "fix_versions": ["1.1"]}]}

    def judged(*packages: object) -> tuple[str, int]:
        return verdict(json.dumps({"dependencies": packages}), "")

    assert verdict("", "Traceback\nConnectionError: nobody")[1] == 0
    assert "skipped" in verdict("", "Traceback\nConnectionError: nobody")[0]
    assert judged(unknown) == (
        "Audit skipped: the index of packages tells of no vulnerabilities.",
        0,
    )
    assert judged(unknown, fine) == (
        "No known vulnerabilities; 1 of 2 pinned packages could be audited.",
        0,
    )
    message, code = judged(unknown, flawed, fine)
    assert code == 1
    assert "b 1.0: PYSEC-2024-1, fixed in 1.1" in message
