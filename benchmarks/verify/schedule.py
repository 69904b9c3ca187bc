"""Runs the sections in processes of their own: those that measure time alone, the others together.

A process that is killed or crashes takes one item with it. A section that has used up its time is
ended, and says how far it came.
"""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path

from benchmarks.verify.rows import FAILED, NOT_SHOWN, PASSED, Given, Ledger, Row
from benchmarks.verify.sections import Section
from benchmarks.verify.simulation import ROOT

OUT_OF_TIME = "out of time"
SECONDS = 540.0  # of all sections, for which the seconds of each are meant
Tell = Callable[[str, "Outcome"], None]


@dataclass(frozen=True)
class Outcome:
    """How a section ended.

    Attributes:
        state: "passed", "failed", "out of time" or "not shown".
        rows: What it told, in the order of its items.
        total: How many items it had.
        seconds: How long it took.
        told: What there is to say besides.
    """

    state: str
    rows: list[Row]
    total: int
    seconds: float = 0.0
    told: str = ""


@dataclass(eq=False)
class _Going:
    """A section that is being run."""

    name: str
    section: Section
    ledger: Ledger
    begin: float = 0.0
    started: int = 0
    processes: dict[subprocess.Popen[bytes], Path] = field(default_factory=dict)
    crashes: list[str] = field(default_factory=list)
    claims: int = 0  # items that had been begun when a process crashed
    late: bool = False

    def outcome(self) -> Outcome:
        rows, lost = self.ledger.rows(), self.ledger.begun()
        seconds = time.monotonic() - self.begin if self.begin else 0.0
        told = ""
        if self.late or not self.begin:
            told = f"It came to {len(rows)} of {len(self.ledger.items)} in {seconds:.0f} seconds."
        else:
            why = self.crashes[-1] if self.crashes else "its process ended"
            rows += [Row(item, FAILED, f"It brought its process down: {why}") for item in lost]
            left = len(self.ledger.items) - len(rows)
            if left:
                told = f"{left} were not begun: {why}"
            elif self.crashes:
                told = f"A process ended badly: {why}"
        states = {row.state for row in rows}
        if FAILED in states or (self.crashes and len(rows) < len(self.ledger.items)):
            state = FAILED
        elif len(rows) < len(self.ledger.items):
            state = OUT_OF_TIME
        else:
            state = NOT_SHOWN if states == {NOT_SHOWN} else PASSED
        return Outcome(state, rows, len(self.ledger.items), seconds, told)


def carry_out(
    given: Given, loaded: Mapping[str, Section], seconds: float, tell: Tell
) -> dict[str, Outcome]:
    """Runs the sections, and returns how each ended.

    Args:
        given: What the command was given.
        loaded: The sections by name.
        seconds: In which all have to end; infinite for as long as they take.
        tell: Called with the name and the outcome of each section that ends.
    """
    end = time.monotonic() + seconds
    found: dict[str, Outcome] = {}
    going = []
    for name, section in loaded.items():
        try:
            items = section.items(given)
            if not items:
                raise ValueError("There is nothing to check.")
        except Exception as error:  # the others go on
            found[name] = Outcome(FAILED, [], 0, told=f"{type(error).__name__}: {error}"[:300])
            tell(name, found[name])
            continue
        going.append(_Going(name, section, given.ledger(name, items)))
    alone = [one for one in going if one.section.ALONE]
    left = sum(one.section.SECONDS for one in alone)
    kept = left * seconds / SECONDS if seconds < math.inf else 0.0
    together = [one for one in going if not one.section.ALONE]
    _phase(given, together, end - kept, seconds, found, tell)
    for one in alone:
        # What the others did not use is shared out among those that are left.
        share = (end - time.monotonic()) * one.section.SECONDS / left
        _phase(given, [one], time.monotonic() + share, seconds, found, tell)
        left -= one.section.SECONDS
    return {name: found[name] for name in loaded}


def _phase(
    given: Given,
    going: list[_Going],
    deadline: float,
    seconds: float,
    found: dict[str, Outcome],
    tell: Tell,
) -> None:
    """Runs some sections together until all have ended, by `deadline` at the latest."""
    counts = [1 if one.section.ALONE else len(one.ledger.items) for one in going]
    turns = ([one] * min(count, given.jobs) for one, count in zip(going, counts, strict=True))
    waiting = [one for turn in zip_longest(*turns) for one in turn if one is not None]
    left = list(going)
    try:
        while left:
            for one in left:
                _look(one, waiting)
                limit = _limit(one, seconds) if len(going) > 1 else math.inf
                if time.monotonic() > min(deadline, one.begin + limit):
                    one.late = one.late or bool(one.processes) or one in waiting
                    _kill(one)
                elif one.processes or one.ledger.claims() < len(one.ledger.items):
                    continue
                # Nothing is left for the processes that it waits for.
                waiting = [other for other in waiting if other is not one]
            while waiting and sum(len(one.processes) for one in left) < given.jobs:
                one = waiting.pop(0)
                if one.ledger.claims() < len(one.ledger.items):
                    _start(given, one)
            for one in [one for one in left if not one.processes and one not in waiting]:
                left.remove(one)
                found[one.name] = one.outcome()
                tell(one.name, found[one.name])
            time.sleep(0.05)
    finally:
        for one in going:
            _kill(one)


def _limit(one: _Going, seconds: float) -> float:
    """The seconds of a section, its part of the whole; where that has no end, it has none."""
    bounded = seconds < math.inf and not one.section.ALONE and one.begin
    return one.section.SECONDS * seconds / SECONDS if bounded else math.inf


def _start(given: Given, one: _Going) -> None:
    """Starts another process of a section."""
    values = json.dumps({**asdict(given), "out": str(given.out)})
    command = [sys.executable, "-m", "benchmarks.verify.worker", one.name, values]
    # Processes that run beside each other take a core each.
    threads = {} if one.section.ALONE else {"OMP_NUM_THREADS": "1"}
    one.begin = one.begin or time.monotonic()
    one.started += 1
    log = one.ledger.folder / f"process{one.started}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **threads},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    one.processes[process] = log


def _look(one: _Going, waiting: list[_Going]) -> None:
    """Drops the processes that have ended, and asks for new ones where they crashed."""
    for process in [p for p in one.processes if p.poll() is not None]:
        log = one.processes.pop(process)
        if process.returncode:
            one.crashes.append(_why(process.returncode, log))
            # One that came to no item would not the next time either.
            before, one.claims = one.claims, one.ledger.claims()
            if before < one.claims < len(one.ledger.items):
                waiting.append(one)


def _why(code: int, log: Path) -> str:
    """What is known of a process that did not end well: how, and its last words."""
    ended = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    words = log.read_text("utf-8", "replace").splitlines()
    return f"{ended}; {words[-1][:200]}" if words else ended


def _kill(one: _Going) -> None:
    """Ends the processes of a section, with those that they started."""
    for process in one.processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    one.processes.clear()
