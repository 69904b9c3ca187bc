"""Outer steps of one run, or of several in turn."""

import traceback
from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol, TypeVar

import torch

from bilevel_cli.core.method import Estimate
from bilevel_cli.errors import out_of_memory
from bilevel_cli.machine.ranks import Ranks
from bilevel_cli.machine.signals import Interrupted, stop_requests
from bilevel_cli.records.table import Row
from bilevel_cli.runs.clock import Clock
from bilevel_cli.runs.doubts import Doubts, Voice
from bilevel_cli.runs.progress import Bar, Progress
from bilevel_cli.runs.state import Inputs


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

    def steps(self, progress: Progress, requests: list[int]) -> Generator[Inputs, Estimate, Row]:
        """Yields the inputs of each outer step, is sent its estimate, and returns the last scores.

        Args:
            progress: Told of each outer step.
            requests: The signals so far that ask to stop.
        """


AnyRun = TypeVar("AnyRun", bound=Stepping)


def drive(
    runs: list[AnyRun],
    estimates: Callable[[list[AnyRun], list[Inputs]], Sequence[Estimate | Exception]],
    ranks: Ranks,
    bar: Bar | None = None,
) -> list[Row | BaseException]:
    """Takes the outer steps that remain to some runs, those furthest behind first.

    Returns for each its last scores, or what it raised: the others go on, unless all are stopped
    at once.

    Args:
        runs: The runs.
        estimates: The estimates of one outer step, of those runs and with those inputs; or what
            a run's own raised.
        ranks: The processes that share the outer steps.
        bar: As in `Progress`.
    """
    clock = Clock()
    clock.runs = max(1, len(runs))
    for run in runs:
        run.earlier, run.clock = run.seconds, clock
    outcomes: dict[AnyRun, Row | BaseException] = {}
    inputs: dict[AnyRun, Inputs] = {}
    quiet = not ranks.first
    with torch.no_grad(), stop_requests(quiet) as requests, _progress(runs, quiet, bar) as shown:
        agreed = ranks.agreed(requests)
        steps = {run: run.steps(shown, agreed) for run in runs}
        voice, doubts = Voice(quiet), {run.name: run.doubts for run in runs}

        def proceed(run: AnyRun, estimate: Any) -> None:
            failed = isinstance(estimate, Exception)
            try:
                inputs[run] = (steps[run].throw if failed else steps[run].send)(estimate)
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
            while inputs:
                step = min(run.step for run in inputs)
                turn = [run for run in inputs if run.step == step]
                clock.runs, before = len(turn), clock.seconds
                clock.start()
                # Several processes stop after the same step, or wait for each other.
                with shown.estimating(requests if ranks.count == 1 else []):
                    found = estimates(turn, [inputs.pop(run) for run in turn])
                waiting = list(inputs)
                for run, estimate in zip(turn, found, strict=True):
                    proceed(run, estimate)
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
