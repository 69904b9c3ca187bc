"""Every pair of task and method on the CUDA device: `make test-device`.

    python tests/gpu/every_pair.py [--jobs 2] [--tasks a,b] [--methods a,b] [--json rows.json]

The device is the simulated one, or a real one where torch has CUDA. Ends with 1 where a pair is
wrong, or a task or a method has no pair that is served, and names it.
"""

import argparse
import contextlib
import json
import logging
import multiprocessing
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers"), str(Path(__file__).parent)]

import simulated_library  # noqa: E402

try:
    simulated_library.load()
    SIMULATED = True
except simulated_library.HasCuda:
    SIMULATED = False

import torch  # noqa: E402
from pairs import Row, check, pairs, unserved  # noqa: E402


def rows(chosen: list[tuple[str, str]], jobs: int) -> Iterator[Row]:
    """What is found of some pairs, as it is found, by processes of their own.

    Args:
        chosen: Tasks with methods.
        jobs: Processes.
    """
    with multiprocessing.get_context("spawn").Pool(jobs, initializer=_begin) as pool:
        yield from pool.imap_unordered(_row, chosen, chunksize=4)


def _begin() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)


def _row(pair: tuple[str, str]) -> Row:
    if not SIMULATED:
        return check(*pair)
    from simulated_cuda import simulated

    with simulated():
        return check(*pair)


def summary(found: list[Row]) -> str:
    """The figures of all pairs in two lines."""
    served = [row for row in found if row.served]
    largest = max(served, key=lambda row: row.gap or 0.0, default=None)
    of_it = f" ({largest.task}, {largest.method})" if largest and largest.gap else ""
    waits = [row for row in served if row.wait]
    graphs = [row for row in served if row.graph_gap is not None]
    return (
        f"{len(found)} pairs: {len(served)} served, "
        f"{sum(row.refused is not None for row in found)} refused, "
        f"{sum(row.error is not None for row in found)} broken\n"
        f"{len(waits)} wait ({sum(row.allowed for row in waits)} allowed to), "
        f"{len(graphs)} served as a graph, largest gap "
        f"{(largest.gap or 0.0) if largest else 0.0:.1e}{of_it}"
    )


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    asked.add_argument("--jobs", type=int, default=2, help="processes")
    for name in ("tasks", "methods"):
        asked.add_argument(f"--{name}", type=lambda text: text.split(","), help="all by default")
    asked.add_argument("--json", type=Path, help="where to write the rows")
    given = asked.parse_args()
    chosen = [
        (task, method)
        for task, method in pairs()
        if task in (given.tasks or [task]) and method in (given.methods or [method])
    ]
    begun, found, shown = time.monotonic(), [], sys.stderr.isatty()
    for row in rows(chosen, given.jobs):
        found.append(row)
        for fault in row.faults:
            print(f"task={row.task} method={row.method}: {fault}", flush=True)
        if shown:
            print(f"{len(found)} of {len(chosen)}", end="\r", file=sys.stderr)
    if given.json:
        given.json.write_text(json.dumps([row._asdict() for row in found], indent=1) + "\n")
    whole = given.tasks is None and given.methods is None
    without = unserved(found) if whole else []
    for sentence in without:
        print(sentence, flush=True)
    device = "the simulated device" if SIMULATED else torch.cuda.get_device_name()
    print(f"{summary(found)}\n{device}, {time.monotonic() - begun:.0f} s")
    return int(bool(without) or any(row.faults for row in found))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
