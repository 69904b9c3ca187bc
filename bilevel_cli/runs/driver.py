"""Outer steps of one run, or of several in turn."""

import traceback
from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol, TypeVar

import torch

from bilevel_cli.core import counting
from bilevel_cli.errors import out_of_memory
from bilevel_cli.machine.ranks import Ranks
from bilevel_cli.machine.signals import Interrupted, stop_requests
from bilevel_cli.records.table import Row
from bilevel_cli.runs.clock import Clock
from bilevel_cli.runs.doubts import Doubts, Voice
from bilevel_cli.runs.fused import Answer, Asked
from bilevel_cli.runs.progress import Bar, Progress


class Stepping(Protocol):
    """A run, as the driver sees it: a generator that asks for the estimate of each outer step.

    Attributes:
        clock: Counts the seconds of its outer steps; shared by the runs that are driven together.
        earlier: Seconds of computing that `clock` has not counted.
    """

    clock: Clock
    earlier: float

    @property
    def name(self) -> str:
        """What the log calls it among the runs that are driven together."""

    @property
    def step(self) -> int:
        """Outer steps taken."""

    @property
    def outer_steps(self) -> int:
        """Outer steps of the whole run."""

    @property
    def seconds(self) -> float:
        """Seconds of computing so far."""

    @property
    def doubts(self) -> Doubts:
        """What it doubts of its own numbers."""

    def steps(self, progress: Progress, requests: list[int]) -> Generator[Any, Any, Row]:
        """Yields what it asks for, is sent the answer, and returns the last scores.

        Args:
            progress: Told of each outer step.
            requests: The signals so far that ask to stop.
        """


AnyRun = TypeVar("AnyRun", bound=Stepping)


def drive(
    runs: list[AnyRun],
    answers: Callable[[list[AnyRun], list[Asked]], Sequence[Answer | Exception]],
    ranks: Ranks,
    bar: Bar | None = None,
) -> list[Row | BaseException]:
    """Takes the outer steps that remain to some runs, those furthest behind first.

    Returns for each its last scores, or what it raised: the others go on, unless all are stopped
    at once.

    Args:
        runs: The runs.
        answers: The answers to what those runs ask for; or what a run's own raised.
        ranks: The processes that share the outer steps.
        bar: As in `Progress`.
    """
    clock = Clock()
    clock.runs = max(1, len(runs))
    for run in runs:
        run.earlier, run.clock = run.seconds, clock
    outcomes: dict[AnyRun, Row | BaseException] = {}
    asked: dict[AnyRun, Asked] = {}
    quiet = not ranks.first
    with torch.no_grad(), stop_requests(quiet) as requests, _progress(runs, quiet, bar) as shown:
        agreed = ranks.agreed(requests)
        steps = {run: run.steps(shown, agreed) for run in runs}
        voice, doubts = Voice(quiet), {run.name: run.doubts for run in runs}

        def proceed(run: AnyRun, answer: Any) -> None:
            failed = isinstance(answer, Exception)
            try:
                asked[run] = (steps[run].throw if failed else steps[run].send)(answer)
            except StopIteration as end:
                outcomes[run] = end.value
            except (Exception, Interrupted) as error:
                outcomes[run] = error
                if out_of_memory(error):  # its frames would keep what the others can use
                    traceback.clear_frames(error.__traceback__)
            clock.stop()  # the next one may begin with an evaluation

        try:
            for run in runs:
                proceed(run, None)
            while asked:
                step = min(run.step for run in asked)
                turn = [run for run in asked if run.step == step]
                clock.runs, before = len(turn), clock.seconds
                clock.start()
                # Several processes stop after the same step, or wait for each other.
                before_it = counting.tell(shown.estimating(requests if ranks.count == 1 else []))
                try:
                    found = answers(turn, [asked.pop(run) for run in turn])
                finally:
                    counting.untell(before_it)
                shown.estimated()
                waiting = list(asked)
                for run, answer in zip(turn, found, strict=True):
                    proceed(run, answer)
                voice.say(doubts)
                for run in waiting:  # those ahead of the others: the time was not theirs
                    run.earlier -= clock.seconds - before
        except KeyboardInterrupt as stop:
            outcomes |= {run: stop for run in runs if run not in outcomes}
        finally:
            voice.say(doubts)
            voice.end()
    return [outcomes[run] for run in runs]


def _progress(runs: Sequence[Stepping], quiet: bool, bar: Bar | None) -> Progress:
    total = sum(run.outer_steps for run in runs)
    return Progress(total, sum(run.step for run in runs), quiet, bar)
