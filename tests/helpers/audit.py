"""What is installed with the project: whether it is pinned, and whether flaws of it are known.

    python tests/helpers/audit.py

Looks at what `bilevel-cli[dev]` brought, and lets pip resolve what each other extra adds. Asks the
databases of pip-audit for all these versions, all pins, and all lower bounds. It says what it
looked at.

Exit codes: 0 all is pinned and no flaw is known, or no database answered, which is said; 1 a flaw
is known, a package is not pinned, or pins are in conflict.
"""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PINNED = ROOT / "constraints.txt"
OLDEST = ROOT / "tests" / "oldest.txt"
SERVICES = ("pypi", "osv")  # of pip-audit
NEVER_PINNED = {"bilevel-cli", "pip", "setuptools", "wheel"}
OF_TORCH = ("nvidia-", "cuda-", "triton")  # which a build of torch for CUDA pins itself
# The launcher of Ray asks for another cloudpickle than joblib does: see `make test-ray`. wandb and
# mlflow talk to servers whose versions are not ours to choose, and no test installs them.
UNPINNED = ("ray", "wandb", "mlflow")
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]

Versions = set[tuple[str, str]]


def resolved(extra: str) -> Versions | str:
    """What pip would add for the project with an extra; its last words where it cannot."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [*PIP, "install", "--dry-run", "--quiet"]
        command += ["--report", str(report), "--constraint", str(PINNED), f"{ROOT}[{extra}]"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=900)
        except subprocess.TimeoutExpired:
            return "It took more than 15 minutes."
        if done.returncode:
            return _last(done.stderr)
        return of_report(json.loads(report.read_text()))


def of_report(report: dict[str, Any]) -> Versions:
    """Names and versions in a report of pip's."""
    found = (one["metadata"] for one in report["install"])
    return _public((one["name"], one["version"]) for one in found)


def needed(name: str, extra: str) -> Versions:
    """Names and versions in this environment of what a package with an extra brings."""
    found, left = {(name, extra)}, [(name, extra)]
    while left:
        whose, given = left.pop()
        for one in map(Requirement, metadata.requires(whose) or []):
            if one.marker is None or one.marker.evaluate({"extra": given}):
                # Without what is not installed, such as the builds of torch for other machines.
                there = next(iter(metadata.distributions(name=one.name)), None) is not None
                wanted = ("", *one.extras) if there else ()
                more = {(canonical(one.name), extra) for extra in wanted}
                left += more - found
                found |= more
    return _public((one, metadata.version(one)) for one, _ in found)


def _public(found: Iterable[tuple[str, str]]) -> Versions:
    """Without the project, what comes with Python, and the builds of a version, such as +cpu."""
    named = {(canonical(name), version.partition("+")[0]) for name, version in found}
    return {
        (name, version)
        for name, version in named
        if name not in NEVER_PINNED and not name.startswith(OF_TORCH)
    }


def pinned(path: Path) -> Versions:
    """Names and versions in a file of NAME==VERSION lines."""
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return {(canonical(line.split("==")[0]), line.split("==")[1]) for line in lines if line}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def asked(service: str, versions: Versions) -> tuple[str, str]:
    """The JSON that pip-audit prints of some versions, and what it says besides.

    Args:
        service: The database, by pip-audit's name for it.
        versions: Names and versions; one version of a name.
    """
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "wanted.txt"
        wanted.write_text("".join(f"{name}=={version}\n" for name, version in sorted(versions)))
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(wanted), "--no-deps"]
        command += ["--disable-pip", "--format", "json", "--progress-spinner", "off"]
        command += ["--vulnerability-service", service]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        except subprocess.TimeoutExpired:
            return "", "It took more than five minutes."
        return done.stdout, done.stderr


def verdict(of: str, service: str, report: str, error: str) -> tuple[str, list[str]] | None:
    """What a database knows of some versions, in one line, and their flaws.

    Args:
        of: Which versions: for the line.
        service: The database.
        report: The JSON that pip-audit printed; empty where it broke off.
        error: What it said besides.

    Returns:
        None where the database knows none of them.
    """
    if not report:
        return None
    packages = json.loads(report)["dependencies"]
    known = [package for package in packages if "vulns" in package]
    if not known:
        return None
    flaws = [
        f"  {package['name']} {package['version']}: {flaw['id']}, fixed in "
        f"{', '.join(flaw['fix_versions']) or 'no version'}"
        for package in known
        for flaw in package["vulns"]
    ]
    return f"{of}: {service} knows {len(known)} of {len(packages)}, {len(flaws)} flaws.", flaws


def unanswered(of: str, count: int, reasons: dict[str, str]) -> str:
    """What to say where no database knew any of so many versions.

    Args:
        of: Which versions.
        count: How many.
        reasons: What pip-audit said, by the database.
    """
    said = "; ".join(f"{service}: {reason}" for service, reason in reasons.items())
    return f"{of}: NOT AUDITED, no database of flaws knew any of {count} versions. {said}"


def missing(found: Versions, pins: Versions) -> list[str]:
    """The packages that have no pin, or another one."""
    return sorted(f"{name}=={version}" for name, version in found - pins)


def audited(of: str, versions: Versions) -> list[str]:
    """Asks one database after the other, until one knows something. Prints it; returns flaws."""
    reasons = {}
    for service in SERVICES if versions else ():
        report, error = asked(service, versions)
        if found := verdict(of, service, report, error):
            print("\n".join([found[0], *found[1]]))
            return found[1]
        reasons[service] = "it knows none of them" if report else _last(error)
    if versions:
        print(unanswered(of, len(versions), reasons))
    return []


def main() -> int:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins, here = pinned(PINNED), needed("bilevel-cli", "dev")
    bad = missing(here, pins)
    print(f"Installed here for [dev]: {len(here)} packages, {len(here) - len(bad)} as pinned.")
    for extra in extras["optional-dependencies"]:
        if extra in UNPINNED:
            print(f"[{extra}]: not resolved, since it has no pins.")
            continue
        found = resolved(extra)
        if isinstance(found, str):
            print(f"[{extra}]: NOT RESOLVED. {found}")
            if "conflict" in found:  # else no index answered, say
                bad.append(extra)
            continue
        lacking = missing(found, pins)
        print(f"[{extra}]: {len(found)} packages more, {len(found) - len(lacking)} as pinned.")
        bad += lacking
        here |= found
    if bad:
        print("\n  ".join(["Not as constraints.txt has it:", *dict.fromkeys(bad)]))
    bad += audited("What is installed", here)
    bad += audited("What is pinned besides", pins - here)
    bad += audited("The lower bounds", pinned(OLDEST))
    return 1 if bad else 0


def _last(text: str) -> str:
    lines: Iterable[str] = text.strip().splitlines() or ["It said nothing."]
    return list(lines)[-1][:200]


if __name__ == "__main__":
    sys.exit(main())
