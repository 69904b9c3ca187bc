"""What a user sees of runs while they go on: a bar in a terminal, a line a minute elsewhere."""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from bilevel_cli.core import counting
from bilevel_cli.machine.signals import Stopped
from bilevel_cli.records.table import Row

log = logging.getLogger(__name__)

Bar = Callable[..., Any]  # makes a bar with the interface of tqdm's

EVERY = 60.0  # seconds between two lines where there is no bar
REFRESH = 0.1  # seconds between two sights of an evaluation
LONG = 2.0  # seconds of an outer step after which its parts are shown
WAIT = 5.0  # seconds that a signal waits for the end of an outer step which is told in parts
BLOCKS = 2  # columns of the bar itself, at least
LEFT = len(" || , 1:00:00 left")  # columns of what the bar says besides
NAMES = (12, 8, 5)  # columns of the name of a score, where there are few


class Progress:
    """Shows how far runs are, which take their outer steps together, and their last numbers.

    Two lines of a log that is no terminal are `EVERY` seconds apart, and the first one comes after
    as many. A bar is drawn by tqdm.

    Args:
        total: Outer steps of all runs.
        done: Those that were taken before.
        quiet: Whether to show nothing.
        bar: Makes the bar, as tqdm's classes do. None for tqdm's own where standard
            error is a terminal, and for lines in the log elsewhere.
        clock: Seconds.
    """

    def __init__(
        self,
        total: int,
        done: int = 0,
        quiet: bool = False,
        bar: Bar | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._done, self._quiet, self._clock = total, done, quiet, clock
        self._taken = 0
        self._since = self._told = self._seen = clock()
        self._loss: Row = {}
        self._score: Row = {}
        self._evaluated = ""
        if bar is None and sys.stderr is not None and sys.stderr.isatty():
            bar = tqdm
        self._bar: Any = None
        if bar is not None and not quiet:
            self._bar = bar(
                total=total,
                initial=done,
                bar_format="step {n_fmt}/{total_fmt} |{bar}| {desc}{remaining} left",
                dynamic_ncols=True,
                leave=False,
            )
        self._context = contextlib.ExitStack()

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            # What is logged would go on in the line of the bar.
            self._context.enter_context(logging_redirect_tqdm(tqdm_class=type(self._bar)))
            self._context.callback(self._bar.close)
        return self

    def __exit__(self, *error: object) -> None:
        self._context.close()

    def step(self, count: int = 1) -> None:
        """Counts outer steps."""
        self._done, self._taken = self._done + count, self._taken + count
        if self._bar is not None:
            self._bar.update(count)
        self._log()

    def back(self, steps: int) -> None:
        """Takes back outer steps of a run that went back to its last checkpoint."""
        self._done -= steps
        if self._bar is not None:
            self._bar.update(-steps)

    def report(self, row: Row, scores: Row) -> None:
        """Shows the loss of a row and the first of the last scores, as far as there are some."""
        self._loss = {"loss": row["outer_loss"]} if row else self._loss
        self._score = dict(list(scores.items())[:1])
        self._draw(refresh=False)

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Shows that an evaluation goes on, and how many of its parts are done."""
        self._evaluated = "evaluating"
        self._draw()
        try:
            with counting.told(self._count):
                yield
        finally:
            self._evaluated = ""
            self._draw()

    def estimating(self, requests: list[int]) -> counting.Listener:
        """Shows how many parts of a long outer step are done, and does not let a signal wait.

        Args:
            requests: The signals so far that ask to stop after the step.

        Returns:
            Is to be told of the parts of the step. It raises Stopped in the midst of the step,
            `WAIT` seconds after the first signal.
        """
        since = self._clock()
        asked: list[float] = []

        def part(number: int, count: int) -> None:
            now = self._clock()
            if requests and not asked:
                asked.append(now)
            if asked and now - asked[0] >= WAIT:
                raise Stopped(requests[0])
            if now - since >= LONG:
                self._count(number, count, "part")

        return part

    def estimated(self) -> None:
        """Shows that no outer step goes on."""
        self._evaluated = ""

    def _count(self, number: int, count: int, what: str = "evaluating") -> None:
        self._evaluated = f"{what} {number}/{count}"
        if self._clock() - self._seen >= REFRESH:
            self._draw()
            self._log()

    def _draw(self, refresh: bool = True) -> None:
        if self._bar is None:
            return
        self._seen = self._clock()
        columns = self._bar.format_dict["ncols"]  # None where a page draws the bar
        taken = len(f"step {self._done}/{self._total}") + LEFT + BLOCKS
        text = self._fitted(columns and columns - taken)
        self._bar.set_description_str(f"{text}, " if text else "", refresh=refresh)

    def _log(self) -> None:
        now = self._clock()
        if self._quiet or self._bar is not None or now - self._told < EVERY:
            return
        self._told = now
        left = "?"
        if self._taken:
            seconds = (now - self._since) / self._taken * (self._total - self._done)
            left = tqdm.format_interval(seconds)
        text = self._fitted(None)
        log.info("Step %d of %d: %s%s left", self._done, self._total, text and f"{text}, ", left)

    def _fitted(self, columns: int | None) -> str:
        """What is known, in so many columns or in any number.

        Where there is little room the name of the score is cut, then the loss is left out.
        """
        first = [self._evaluated] if self._evaluated else []

        def text(values: Row, longest: int | None) -> str:
            return ", ".join(
                [*first, *(f"{_short(n, longest)} {x:.4g}" for n, x in values.items())]
            )

        both = {**self._loss, **self._score}
        ways = [*(text(both, longest) for longest in (None, *NAMES)), text(self._score, NAMES[-1])]
        return next((way for way in ways if columns is None or len(way) <= columns), ways[-1])


def _short(name: str, longest: int | None) -> str:
    if longest is None or len(name) <= longest:
        return name
    return name[: longest - 1].rstrip("_") + "."
