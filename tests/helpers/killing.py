"""A run of bilevel-run, and the same one killed at random moments and continued to its end.

    python killing.py FOLDER KILLS SEED OVERRIDE...

leaves the undisturbed run in FOLDER/whole and the other one in FOLDER/killed, and prints as JSON
for each kill after which share of the undisturbed run's time it came, and the files that it found.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

from forking import carry_out, finish

from bilevel_cli.runs import entry


def begin(folder: Path, overrides: list[str]) -> int:
    """Starts the command in a process of its own, which finds everything imported."""
    child = os.fork()
    if child:
        return child
    carry_out(folder, overrides, folder.with_suffix(".out"))


def wait(child: int, folder: Path) -> None:
    """Waits until a run has its folder for itself: before, there is nothing to lose."""
    deadline = time.monotonic() + 600
    while not any(f"process {child} on " in path.read_text() for path in folder.rglob("lock")):
        if time.monotonic() > deadline:
            raise TimeoutError(f"No run took {folder}.")
        time.sleep(0.002)


def main(root: Path, kills: int, seed: int, overrides: list[str]) -> None:
    assert entry  # imported before any fork
    # A kill spares what the system has, and disks are slow.
    os.fsync = lambda descriptor: None  # type: ignore[assignment]
    moments = random.Random(seed)
    found: list[dict[str, Any]] = []
    child = begin(root / "whole", overrides)
    wait(child, root / "whole")
    since = time.perf_counter()
    codes = [finish(child)]
    whole = time.perf_counter() - since
    while codes == [0] and len(found) < kills:
        share = moments.uniform(0, 0.6)  # of the whole: less than that remains
        child = begin(root / "killed", overrides)
        wait(child, root / "killed")
        time.sleep(share * whole)
        os.kill(child, signal.SIGKILL)
        if finish(child) == -signal.SIGKILL:
            files = sorted(path.name for path in (root / "killed").glob("*"))
            found.append({"share": round(share, 3), "files": files})
    codes.append(finish(begin(root / "killed", overrides)))
    print(json.dumps({"codes": codes, "seconds": round(whole, 2), "kills": found}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
