"""Known vulnerabilities of the pinned dependencies, where a database of them can be reached.

    python tests/helpers/audit.py

Exit codes: 0 none is known, or no database answered, which is said; 1 some are known.
"""

import json
import subprocess
import sys
from pathlib import Path

PINNED = Path(__file__).parents[2] / "constraints.txt"


def verdict(report: str, error: str) -> tuple[str, int]:
    """What there is to say, and the exit code.

    Args:
        report: The JSON that pip-audit printed; empty where it broke off.
        error: What it said besides.
    """
    if not report:
        reason = (error.strip().splitlines() or ["it said nothing"])[-1]
        return f"Audit skipped: no database of vulnerabilities answered. {reason[:200]}", 0
    packages = json.loads(report)["dependencies"]
    known = [package for package in packages if "vulns" in package]
    if not known:
        return "Audit skipped: the index of packages tells of no vulnerabilities.", 0
    found = [
        f"  {package['name']} {package['version']}: {flaw['id']}, fixed in "
        f"{', '.join(flaw['fix_versions']) or 'no version'}"
        for package in known
        for flaw in package["vulns"]
    ]
    counted = f"{len(known)} of {len(packages)} pinned packages could be audited"
    if found:
        return "\n".join([f"{len(found)} known vulnerabilities; {counted}:", *found]), 1
    return f"No known vulnerabilities; {counted}.", 0


def main() -> int:
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(PINNED)]
    command += ["--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        message, code = verdict("", "It took more than five minutes.")
    else:
        message, code = verdict(done.stdout, done.stderr)
    print(message)
    return code


if __name__ == "__main__":
    sys.exit(main())
