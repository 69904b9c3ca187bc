"""What the project depends on: from which versions, and whether a flaw of them is known."""

import json
import tomllib
from pathlib import Path

from audit import missing, needed, of_report, unanswered, verdict
from packaging.requirements import Requirement

CHECKOUT = Path(__file__).parents[2]
BROUGHT = ("excel", "optuna", "parallel", "parquet", "report")  # the extras that `dev` brings


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

    oldest, allowed = pinned(CHECKOUT / "tests/oldest.txt"), lower_bounds(*BROUGHT)
    assert oldest.keys() == allowed.keys()
    for name, version in allowed.items():
        assert padded(oldest[name]) == padded(version), name


def test_every_dependency_is_pinned() -> None:
    names = {name.lower().replace("_", "-") for name in pinned(CHECKOUT / "constraints.txt")}
    assert names >= {name.lower() for name in lower_bounds(*BROUGHT, "slurm")}


def test_an_audit_says_what_a_database_knew_and_that_another_knew_nothing() -> None:
    unknown = {"name": "a", "skip_reason": "not found"}
    fine = {"name": "b", "version": "1.0", "vulns": []}
    flawed = {**fine, "vulns": [{"id": "PYSEC-2024-1", "fix_versions": ["1.1"]}]}

    def judged(*packages: object) -> tuple[str, list[str]] | None:
        return verdict("The pins", "osv", json.dumps({"dependencies": packages}), "")

    assert verdict("The pins", "osv", "", "Traceback\nConnectionError: nobody") is None
    assert judged(unknown) is None
    assert judged(unknown, fine) == ("The pins: osv knows 1 of 2, 0 flaws.", [])
    assert judged(unknown, flawed, fine) == (
        "The pins: osv knows 2 of 3, 1 flaws.",
        ["  b 1.0: PYSEC-2024-1, fixed in 1.1"],
    )
    said = unanswered("The pins", 3, {"osv": "nobody there"})
    assert said.startswith("The pins: NOT AUDITED, no database of flaws knew any of 3 versions.")
    assert "osv: nobody there" in said


def test_a_package_that_pip_would_bring_without_a_pin_is_named() -> None:
    brought = [("Torch", "2.13.0+cpu"), ("New_Thing", "1.0"), ("pip", "1"), ("tqdm", "9")]
    report = {"install": [{"metadata": {"name": n, "version": v}} for n, v in brought]}
    found = of_report(report)
    assert missing(found, {("torch", "2.13.0"), ("tqdm", "4")}) == ["new-thing==1.0", "tqdm==9"]


def test_what_a_package_needs_is_found_through_its_extras_and_nothing_besides() -> None:
    names = {name for name, _ in needed("bilevel-cli", "dev")}
    assert {"numpy", "pytest", "ruff", "antlr4-python3-runtime", "matplotlib"} <= names
    assert {name for name, _ in needed("tqdm", "")} == {"tqdm"}
