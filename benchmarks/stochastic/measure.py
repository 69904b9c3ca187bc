"""Fresh processes that time ours and the peers, and the table that they fill: stochastic.csv."""

import json
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import results

# Outer steps between two rows, rows after the first, and cases whose name contains one of these.
SIZES = {
    "full": (2000, 7, ("",)),
    "quick": (1000, 3, ("ijcnn1 soba",)),
    "tiny": (10, 2, ("ijcnn1 soba",)),
}
MNIST = 10  # a step of MNIST takes about as long as so many of ijcnn1
WHOLE = 100  # and one on all examples of ijcnn1 as long as so many on batches
STEPS = 20  # outer steps in which a peer is held to ours
AGREES = 1e-10  # in float64, relative
# XLA copies what a loop writes into, unless it looks at when it is read.
OPTIONS = {"JAX": {}, "JAX, no copies": {"xla_cpu_copy_insertion_use_region_analysis": True}}
CALLS = ("first", "second")  # with an empty cache of the compiler, and with what the first left


def run(folder: Path, size: str, only: str, data: str) -> None:
    """Writes stochastic.csv.

    Args:
        folder: Where it goes.
        size: "full", "quick" or "tiny".
        only: Cases whose name contains this.
        data: The folder of the real data; synthetic ones of the same sizes without it.
    """
    from benchmarks.stochastic import cases  # here: it needs no JAX, but torch and hydra

    path = folder / "stochastic.csv"
    if find_spec("jax") is None:  # what was measured where it is stays
        print("Not installed: jax. The stochastic methods are not compared.")
        return
    path.unlink(missing_ok=True)
    for name in cases.names():
        if only in name and any(part in name for part in SIZES[size][2]):
            with tempfile.TemporaryDirectory() as cache:
                for call in CALLS:
                    for row in _fresh(name, size, data, cache):
                        results.append(path, case=name, call=call, **row)


def _fresh(name: str, size: str, data: str, cache: str) -> list[dict[str, Any]]:
    """The rows of a case, measured in a process of its own; none where it fails."""
    command = [sys.executable, "-m", "benchmarks.stochastic", name, size, data]
    settings = {
        "TORCHINDUCTOR_CACHE_DIR": cache,
        "TORCHINDUCTOR_COMPILE_THREADS": "1",  # so that its CPU seconds are those of this process
        "OMP_NUM_THREADS": "1",
        "JAX_PLATFORMS": "cpu",
    }
    environment = {**os.environ, **settings}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        print(f"{name}: {(done.stderr.splitlines() or ['failed'])[-1]}")
        return []
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def one(name: str, size: str, data: str) -> None:
    """In the fresh process: prints the rows of a case.

    Raises:
        ValueError: A peer does not take the steps that ours takes.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # before JAX counts the cores
    import jax

    jax.config.update("jax_enable_x64", True)
    from benchmarks.stochastic import agreement, cases, clock, programs
    from bilevel_cli.loggers.base import Loggers

    chunk, rounds, _ = SIZES[size]
    whole = cases.configured(name).task.batch_size is None
    slow = (MNIST if name.startswith("mnist") else 1) * (WHOLE if whole else 1)
    chunk = max(2, chunk // slow)
    never = [f"{every}={cases.NEVER}" for every in ("eval_every", "save_every")]
    common = [*cases.SMALL[name.split()[0]], *never, "on_divergence=continue"]
    long = [f"outer_steps={chunk * (rounds + 1)}", f"log_every={chunk}"]
    with tempfile.TemporaryDirectory() as folder:
        plain = [*common, "device.capture=null", "device.dtype=float64"]
        held = cases.built(cases.configured(name, *plain, data=data, size=size), Path(folder))
        error = agreement.gap(held, programs.peer(held), STEPS)
    if not error <= AGREES:
        raise ValueError(f"The peer of {name} is {error:.0e} from ours after {STEPS} steps.")
    with tempfile.TemporaryDirectory() as folder:
        ours = cases.built(
            cases.configured(name, *common, *long, data=data, size=size), Path(folder)
        )
        peer = programs.peer(ours)
        turns = clock.Turns(
            {who: clock.compiled(peer.program(chunk, **given)) for who, given in OPTIONS.items()}
        )
        ours.rows.loggers = Loggers({"clock": turns})
        ours.run()
    rows = [
        {"implementation": who, "round": number, "steps": chunk, "wall": wall, "cpu": cpu}
        | {"error": error}
        for who, seconds in turns.seconds.items()
        for number, (wall, cpu) in enumerate(seconds)
    ]
    print(json.dumps(rows))
