"""What a sweep says at its end."""

import shutil
import textwrap
from collections import Counter

from bilevel_cli.errors import Failed, Unwritten, UsageError
from bilevel_cli.records.plain import plain
from bilevel_cli.sweeps.job import Job
from bilevel_cli.sweeps.outcome import Outcome
from bilevel_cli.vocabulary import COMPLETED, FAILED, OOM, REFUSED, RUNNING, TRACEBACK


def table(known: list[Job]) -> str:
    """A line for each job, with its status, score and reason of failure; and how many there are."""
    outcomes = [job.outcome() for job in known]
    told = names(known)
    scores = [f"{found.score[1]:.4g}" if found.score else "-" for found in outcomes]
    measures = sorted({found.score[0] for found in outcomes if found.score})
    score = plain(measures[0]) if len(measures) == 1 else "score"
    rows = [
        ("job", "status", score, ""),
        *(
            (plain(name), found.status, value, plain(" ".join((found.error or "").split())))
            for name, found, value in zip(told, outcomes, scores, strict=True)
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
    """The exit code and a message for the jobs that did not complete; None if all did.

    Each has its reason whole, those of one reason together, and the file of its traceback.
    """
    failed = [(job, found) for job in known if (found := job.outcome()).status != COMPLETED]
    if not failed:
        return None
    alike: dict[str, list[Job]] = {}
    for job, found in failed:
        alike.setdefault(reason(job, found), []).append(job)
    lines = [f"  {together(some, known)}{many(some)}: {why}" for why, some in alike.items()]
    statuses = {found.status for _, found in failed}
    codes = {found.code for _, found in failed}
    message = "\n".join([f"{len(failed)} of the jobs failed:", *lines])
    if statuses == {REFUSED} and len(failed) == len(known):
        return UsageError.code, message
    return Unwritten.code if Unwritten.code in codes else Failed.code, message


def going_on(known: list[Job]) -> str:
    """What to say of jobs that a stopped command leaves running, as on a cluster; or nothing."""
    count = sum(job.outcome().status == RUNNING for job in known)
    if not count:
        return ""
    return (
        f"\n{count} of the jobs go on without it, and so do those in a queue: scancel ends jobs of "
        "SLURM, and the same command waits for those that run."
    )


def reason(job: Job, found: Outcome) -> str:
    """Why a job did not complete, and where its traceback is if there is one."""
    why, path = plain(found.error or found.status), job.folder / TRACEBACK
    there = found.status in (FAILED, OOM) and path.exists() and TRACEBACK not in why
    return f"{why} The traceback is in {plain(str(path))}." if there else why


def names(known: list[Job]) -> list[str]:
    """What tells jobs apart: the overrides that not all of them have."""
    shared = _common(known)
    return [_name(job, shared) for job in known]


def together(some: list[Job], known: list[Job]) -> str:
    """What tells some jobs from the others: the overrides that they all have, and not all jobs."""
    inside, shared = _common(some), _common(known)
    told = _told([one for one in some[0].overrides if one in inside], shared)
    return told or ", ".join(_name(job, shared) for job in some)


def many(some: list[Job]) -> str:
    """How many jobs there are, where there are several."""
    return f" ({len(some)} jobs)" if len(some) > 1 else ""


def _common(jobs: list[Job]) -> set[str]:
    """The overrides that all of some jobs have."""
    return set.intersection(*(set(job.overrides) for job in jobs))


def _name(job: Job, shared: set[str]) -> str:
    return _told(job.overrides, shared) or plain(job.name)


def _told(overrides: list[str], shared: set[str]) -> str:
    """The overrides that tell a job, without those that all have and those of Hydra."""
    return plain(" ".join(o for o in overrides if o not in shared and not o.startswith("hydra.")))
