"""The tests marked `gpu`, a file of them at a time, each in a pytest of its own."""

import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.verify.rows import FAILED, NOT_SHOWN, PASSED, Given, Row
from benchmarks.verify.simulation import PLUGIN, ROOT, environment

TITLE = "Tests marked `gpu`"
ABOUT = "`pytest -m gpu` on the files that have such tests."
ORDER = 2
SECONDS = 300.0
ALONE = False
HARDWARE = False
MARK = "mark.gpu"
NOTHING = 5  # pytest's exit code where it found no test


def items(given: Given) -> Sequence[str]:
    files = [path.relative_to(ROOT) for path in sorted((ROOT / "tests").rglob("test_*.py"))]
    # Those of tests/gpu are of the simulated device, and of the pairs, which are a section.
    apart = Path("tests", "gpu")
    marked = [f for f in files if f.parent != apart and MARK in (ROOT / f).read_text("utf-8")]
    return [path.as_posix() for path in marked]


def check(given: Given, item: str) -> Row:
    folder = given.folder("tests")
    found = folder / f"{Path(item).stem}.xml"
    plugin = ["-p", PLUGIN] if given.simulated else []
    command = [sys.executable, "-m", "pytest", item, *plugin, "-m", "gpu", "-q"]
    command += ["-p", "no:cacheprovider", f"--junitxml={found}"]
    variables = {**environment(), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # what else is installed
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    (folder / f"{found.stem}.log").write_text(done.stdout + done.stderr)
    if done.returncode == NOTHING:
        return Row(item, NOT_SHOWN, "No test of this file is for one GPU.")
    if not found.exists():
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        return Row(item, FAILED, f"pytest ended with {done.returncode}: {''.join(last)[:300]}")
    return row(item, found)


def row(item: str, found: Path) -> Row:
    """The row of a file, of what pytest wrote in JUnit's format."""
    counts = Counter({"passed": 0, "failed": 0, "skipped": 0})
    told = []
    for case in ET.parse(found).getroot().iter("testcase"):
        problem = next((c for c in case if c.tag in ("failure", "error", "skipped")), None)
        if problem is None:
            counts["passed"] += 1
            continue
        counts["skipped" if problem.tag == "skipped" else "failed"] += 1
        # Why a test failed is in its last line, and why it was skipped in its message.
        words = (problem.get("message") or "").strip().splitlines() or [""]
        told.append(f"{case.get('name')}: {words[0][:160]}")
    state = FAILED if counts["failed"] else PASSED if counts["passed"] else NOT_SHOWN
    return Row(item, state, "; ".join(told[:8]), dict(counts))


def summary(rows: Sequence[Row]) -> str:
    total: Counter[str] = Counter()
    for one in rows:
        total.update({name: int(str(count)) for name, count in one.figures.items()})
    return ", ".join(f"{count} {name}" for name, count in total.items()) + "."
