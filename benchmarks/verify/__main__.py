"""`python -m benchmarks.verify`: verifies the GPU of this machine."""

import argparse
import importlib
import math
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from benchmarks.verify import simulation
from benchmarks.verify.requirements import missing
from benchmarks.verify.schedule import SECONDS

SHARE = 2  # GB of the GPU for each process at work on it


def main() -> None:
    # Sections are ended with what they started: this process stops like one that is interrupted.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verify", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("outputs/verify-gpu"))
    parser.add_argument("--simulate", action="store_true", help="a dry run without a GPU")
    parser.add_argument("--only", default="", help="sections, such as versions,pairs")
    parser.add_argument("--tasks", default="", help="of the pairs, such as meta,reweight")
    parser.add_argument("--methods", default="", help="likewise")
    parser.add_argument("--jobs", type=int, help="processes at once; as many as cores")
    parser.add_argument(
        "--seconds",
        type=float,
        help=f"of the whole; {SECONDS:.0f}, of a dry run as many as it takes",
    )
    given = parser.parse_args()
    if absent := missing():
        _refuse(
            f"verify-gpu needs Python packages that {sys.executable} lacks: {', '.join(absent)}. "
            "Install them with what they ask for (docs/gpu.md: without a network), or name another "
            "Python: make verify-gpu PYTHON=..."
        )
    jobs = os.cpu_count() or 1
    if given.simulate:
        _check_simulation()
    else:
        jobs = max(1, min(jobs, _gpu_gigabytes() // SHARE))
    from benchmarks.verify import verification  # here: it imports torch

    try:
        code = verification.verify(
            given.out.absolute(),
            simulated=given.simulate,
            only=_words(given.only),
            pairs=(_words(given.tasks), _words(given.methods)),
            jobs=given.jobs or jobs,
            seconds=given.seconds or (math.inf if given.simulate else SECONDS),
        )
    except ValueError as error:
        _refuse(str(error))
    sys.exit(code)


def _words(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


def _gpu_gigabytes() -> int:
    """The memory of the GPU, which has to be there."""
    import torch  # here: it may be what is missing

    if not torch.cuda.is_available():
        _refuse(
            f"verify-gpu needs a GPU that torch can use, got none with torch {torch.__version__}. "
            "Take a machine that has one and a torch with CUDA, or add --simulate for a dry run."
        )
    return int(torch.cuda.get_device_properties(0).total_memory / 1e9)


def _check_simulation() -> None:
    simulation.let_tests_be_imported()
    library = importlib.import_module(simulation.LIBRARY)
    try:
        library.library()  # compiled here, once, and not by several processes at a time
    except library.Unavailable as error:
        _refuse(
            f"verify-gpu --simulate needs a simulated device: {error}. Leave --simulate out on a "
            "machine with a GPU, or take a Python whose torch has no CUDA."
        )


def _refuse(words: str) -> NoReturn:
    print(words, file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
