"""One point: something that is done in a process of its own, with bounds on memory and time."""

import contextlib
import gc
import json
import math
import os
import resource
import select
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.memory import _forget_peak
from bilevel_cli.errors import out_of_memory
from bilevel_cli.machine.memory import peak_memory_mb

MEMORY = 3 * 2**30  # bytes that a point may ask for
CPU = torch.device("cpu")
Work = Callable[[], Callable[[], object]]  # makes, apart from the measurement, what is measured


class Point(NamedTuple):
    """What a point came to.

    Attributes:
        outcome: "measured", "refused", "out of memory", "out of time", or "failed".
        cpu: CPU seconds of one call.
        megabytes: By which the process grew meanwhile.
        numbers: That the method says it holds; NaN where nobody says.
        calls: Gradients and products that the method says it takes; likewise.
        what: Of what most of those numbers are; or what a refusal or failure said.
        gradient: CPU seconds of one inner gradient of the same sizes.
    """

    outcome: str
    cpu: float = math.nan
    megabytes: float = math.nan
    numbers: float = math.nan
    calls: float = math.nan
    what: str = ""
    gradient: float = math.nan


def measure(work: Work, least: float, limit: float) -> Point:
    """Measures in a fork of this process, which has no threads of torch's.

    Args:
        work: What is measured. It may have methods `declared` and `gradient`, called
            afterwards.
        least: CPU seconds that repetitions are to take in all.
        limit: Seconds after which the process is ended.
    """
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Of threads in this process: they wait for other points, and hold no lock meanwhile.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os.close(reading)
        with contextlib.suppress(BaseException), open(writing, "w") as pipe:
            pipe.write(json.dumps(_measured(work, least)))
        os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        # Not by RLIMIT_CPU: under it, Linux counts CPU time in ticks of 4 ms.
        ready, _, _ = select.select([pipe], [], [], limit)
        if not ready:
            os.kill(child, signal.SIGKILL)
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if text:
        return Point(*json.loads(text))
    if not ready:
        return Point("out of time", what=f"more than {limit:g} s")
    ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    return Point("failed", what=f"ended by signal {ended}")


def _measured(work: Work, least: float) -> Point:
    # Of the address space: where it ends, torch raises what a run turns into advice.
    here = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (here + MEMORY, here + MEMORY))
    try:
        with torch.no_grad():
            return _repeated(work(), least)
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        if out_of_memory(error):
            return Point("out of memory", what=said)
        refused = isinstance(error, ValueError)
        return Point("refused" if refused else "failed", what=said or type(error).__name__)


def _repeated(call: Any, least: float) -> Point:
    call()  # which loads what torch loads when it is first used, and measures what it remembers
    _forget_peak()
    before = peak_memory_mb(CPU)
    times = [_timed(call)]
    megabytes = peak_memory_mb(CPU) - before
    gc.collect()
    gc.disable()
    while sum(times) < least or (len(times) < 3 and times[-1] < least):
        times.append(_timed(call))
    known = call.declared() if hasattr(call, "declared") else (math.nan, math.nan, "")
    alone = math.nan
    if hasattr(call, "gradient"):
        alone = min(_timed(call.gradient) for _ in range(5))
    return Point("measured", min(times), megabytes, *known, alone)


def _timed(call: Callable[[], object]) -> float:
    since = time.process_time()
    call()
    return time.process_time() - since
