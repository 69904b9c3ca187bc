"""Which combinations of options can work: asked before the first job runs, not hours later."""

import contextlib
import functools
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from bilevel_cli.config.application import composed
from bilevel_cli.config.resolved import resolved
from bilevel_cli.errors import UsageError
from bilevel_cli.records.manifest import Manifest
from bilevel_cli.records.settings import NOT_IN_NAMES, chosen
from bilevel_cli.runs.values import check_values
from bilevel_cli.sweeps.job import Job
from bilevel_cli.vocabulary import CHECKPOINT, FAILED, PREVIOUS

LONGEST = 20.0  # seconds after which no further combination is looked at; the jobs will tell
_REPEATED = ("seed", *NOT_IN_NAMES)  # what says nothing about whether a combination can work

Trial = Callable[[DictConfig, dict[str, str]], str | None]
Trying = Callable[[bool, bool], AbstractContextManager[Trial]]


@dataclass(frozen=True)
class Place:
    """Where jobs run, as far as it tells what a look at a combination here is worth.

    Args:
        process: Whether in this process: then the first job tells of itself, at once.
        machine: Whether on this machine: then what fits into its memory fits there too.
        lists: Whether the sweeper lists all combinations beforehand, as a search does not.
    """

    process: bool
    machine: bool
    lists: bool


class Suitability:
    """Looks at each combination of options once, not at each seed.

    Plain values are looked at first, without torch. Then each combination is built as a job builds
    it: its data are read, and the method says what it cannot serve. Of those with the same options
    that differ in numbers alone, the first is built before the others.

    Args:
        place: Where the jobs run.
        trying: As `runs.trial_builds.trying`, which is imported when it is needed.
        clock: Seconds.
    """

    def __init__(
        self, place: Place, trying: Trying, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._place, self._trying, self._clock = place, trying, clock
        self._built: set[tuple[tuple[str, str], ...]] = set()  # the options of what was built

    def refused(
        self, jobs: Sequence[Job], say: Callable[[str], None]
    ) -> Iterator[tuple[list[Job], str]]:
        """The jobs that cannot work, those of one combination together, and why.

        Args:
            jobs: That are to be launched, in this order.
            say: Is told what goes on, where it takes a while.
        """
        until = self._clock() + LONGEST
        good: list[list[Job]] = []
        for some in _combinations(jobs):
            if reason := _wrong_value(some[0]):
                yield some, reason
            else:
                good.append(some)
        to_build = self._to_build(good)
        if not to_build:
            return
        many = f"{len(to_build)} combinations" if len(to_build) > 1 else "the combination"
        say(f"Looking whether {many} of options can work ...")
        with self._trying(self._place.process, self._place.machine) as tried:
            for number, some in enumerate(to_build):
                if self._clock() > until:
                    rest = len(to_build) - number
                    say(f"After {LONGEST:.0f} s, {rest} of them are left to their jobs.")
                    return
                with composed(some[0].config):
                    reason = tried(*_given(some[0]))
                if reason:
                    yield some, reason

    def _to_build(self, good: list[list[Job]]) -> list[list[Job]]:
        """The combinations to build, those with new options first, then those of other numbers."""
        if self._place.process and good:
            self._built.add(_options(good[0][0]))
            good = good[1:]  # the first job to run, which says the same as soon as it begins
        new: dict[tuple[tuple[str, str], ...], list[Job]] = {}
        other = []
        for some in good:
            options = _options(some[0])
            if options in self._built or new.setdefault(options, some) is not some:
                other.append(some)
        self._built |= new.keys()
        return [*new.values(), *(other if self._place.lists else [])]


def refuse(job: Job, reason: str) -> None:
    """Notes that a job cannot work, in the files in which the job itself would have noted it."""
    job.refuse(reason)
    if any((job.folder / name).exists() for name in (CHECKPOINT, PREVIOUS)):
        return  # of another run, whose manifest stays as it is
    config, options = _given(job)
    process = {"command": shlex.join(sys.argv), "working_directory": str(Path.cwd())}
    with composed(job.config), contextlib.suppress(UsageError, OSError):
        Manifest(job.folder, resolved(config), chosen(options), process).end(FAILED, reason)


def _combinations(jobs: Sequence[Job]) -> list[list[Job]]:
    """The jobs, those together that repeat one combination."""
    found: dict[frozenset[str], list[Job]] = {}
    for job in jobs:
        found.setdefault(_telling(tuple(job.overrides)), []).append(job)
    return list(found.values())


def _telling(overrides: tuple[str, ...]) -> frozenset[str]:
    return frozenset(one for one in overrides if not _repeats(one))


@functools.cache
def _repeats(override: str) -> bool:
    name = override.partition("=")[0].lstrip("+~")
    return name in _REPEATED or name.startswith("hydra.")


def _options(job: Job) -> tuple[tuple[str, str], ...]:
    chosen = OmegaConf.to_container(job.config.hydra.runtime.choices)
    assert isinstance(chosen, dict)
    return tuple((str(group), str(option)) for group, option in sorted(chosen.items()))


def _given(job: Job) -> tuple[DictConfig, dict[str, str]]:
    """The configuration of a job without Hydra's, as the job gets it, and its options."""
    keys = [str(key) for key in job.config if key != "hydra"]
    config = OmegaConf.masked_copy(job.config, keys)
    return config, dict(job.config.hydra.runtime.choices)


def _wrong_value(job: Job) -> str | None:
    with composed(job.config):
        try:
            check_values(*_given(job))
        except UsageError as error:
            return str(error)
    return None
