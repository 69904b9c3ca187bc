"""What a sweep says at its end."""

import shutil
import textwrap
from collections import Counter

from bilevel_cli.errors import Failed, Unwritten
from bilevel_cli.records.plain import plain
from bilevel_cli.sweeps.job import Job
from bilevel_cli.vocabulary import COMPLETED


def table(known: list[Job]) -> str:
    """A line for each job, with its status, score and reason of failure; and how many there are."""
    outcomes = [job.outcome() for job in known]
    names = _names(known)
    scores = [f"{found.score[1]:.4g}" if found.score else "-" for found in outcomes]
    measures = sorted({found.score[0] for found in outcomes if found.score})
    score = plain(measures[0]) if len(measures) == 1 else "score"
    rows = [
        ("job", "status", score, ""),
        *(
            (plain(name), found.status, value, plain(" ".join((found.error or "").split())))
            for name, found, value in zip(names, outcomes, scores, strict=True)
        ),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    width = max(shutil.get_terminal_size().columns, sum(widths) + 26)
    lines = []
    for name, status, value, reason in rows:
        line = f"{name:<{widths[0]}}  {status:<{widths[1]}}  {value:>{widths[2]}}"
        room = width - len(line) - 2
        lines.append(f"{line}  {textwrap.shorten(reason, room, placeholder=' ...')}".rstrip())
    counts = Counter(found.status for found in outcomes)
    total = ", ".join(f"{count} {status}" for status, count in counts.items())
    return "\n".join([*lines, f"{len(known)} jobs: {total}"])


def failures(known: list[Job]) -> tuple[int, str] | None:
    """The exit code and a message for the jobs that did not complete; None if all did."""
    failed = {job.name: found for job in known if (found := job.outcome()).status != COMPLETED}
    if not failed:
        return None
    lines = [
        f"  {plain(name)}: {plain(found.error or found.status)}" for name, found in failed.items()
    ]
    full = any(found.code == Unwritten.code for found in failed.values())
    message = "\n".join([f"{len(failed)} of the jobs failed:", *lines])
    return Unwritten.code if full else Failed.code, message


def _names(known: list[Job]) -> list[str]:
    """What tells jobs apart: the overrides that not all of them have."""
    shared = set.intersection(*(set(job.overrides) for job in known))
    told = [
        " ".join(o for o in job.overrides if o not in shared and not o.startswith("hydra."))
        for job in known
    ]
    return [name or job.name for name, job in zip(told, known, strict=True)]
