"""The line that says how far a sweep is: below what else is printed, or a line a minute."""

import contextlib
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

EVERY = 60.0  # seconds between two lines where there is no terminal
REFRESH = 1.0  # seconds between two looks, at least
SHARE = 20  # a look may take one in so many seconds
CLEAR = "\r\x1b[2K"  # the start of the line, and nothing behind it


_current: "StatusLine | None" = None  # of this process


class StatusLine:
    """Shows a line that is asked for again and again, while other things are printed.

    In a terminal the line stays below the others: what is printed takes its place, and it comes
    back. Where something else has a line of its own there, such as the bar of a run, it waits: that
    bar shows it (`prefixed_bar`). Elsewhere it is printed once in `EVERY` seconds.

    Args:
        ask: Returns the line, and may print. It is called in a thread.
        error: Where the line goes in a terminal.
        clock: Seconds.

    Attributes:
        text: The line, as it was asked for last.
    """

    def __init__(
        self,
        ask: Callable[[], str],
        error: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.text = ""
        self._ask, self._clock = ask, clock
        self._error = error or sys.stderr
        self.terminal = self._error is not None and self._error.isatty()
        self._lock, self._end = threading.RLock(), threading.Event()
        self._told = clock()
        self._drawn, self._free = False, True
        self._thread = threading.Thread(target=self._repeat, name="status line", daemon=True)

    def __enter__(self) -> "StatusLine":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()
        with contextlib.suppress(Exception):  # what ended since the last look
            self._ask()
        self._clear()

    def write(self, stream: TextIO, text: str) -> int:
        """Writes to a stream of the terminal, in place of the line."""
        with self._lock:
            self._clear()
            written = stream.write(text)
            if text:
                self._free = text[-1] in "\r\n"
            return written

    def _repeat(self) -> None:
        pause = 0.0
        while not self._end.wait(pause):
            since = self._clock()
            with contextlib.suppress(Exception):  # the sweep does not end by what it shows
                self.text = self._ask()
                self._show()
            pause = max(REFRESH, SHARE * (self._clock() - since))

    def _show(self) -> None:
        if not self.terminal:
            if self._clock() - self._told >= EVERY:
                self._told = self._clock()
                print(self.text, flush=True)
            return
        with self._lock:
            if self._drawn or self._free:
                room = shutil.get_terminal_size().columns - 1
                self._error.write(CLEAR + self.text[:room])
                self._error.flush()
                self._drawn = True

    def _clear(self) -> None:
        with self._lock:
            if self._drawn:
                self._error.write(CLEAR)
                self._error.flush()
                self._drawn = False


class _Above:
    """A standard stream of a terminal: what is written to it takes the place of the line.

    Args:
        stream: The stream.
        line: The line; a log may still have the stream when the line is over.
    """

    def __init__(self, stream: TextIO, line: StatusLine) -> None:
        self._stream, self._line = stream, line

    def write(self, text: str) -> int:
        return self._line.write(self._stream, text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def shown(ask: Callable[[], str]) -> Iterator[StatusLine]:
    """Shows a line while the context lasts; arguments as of `StatusLine`."""
    global _current
    before = sys.stdout, sys.stderr
    line = StatusLine(ask, sys.stderr)
    if line.terminal:
        sys.stderr = _Above(sys.stderr, line)
        if sys.stdout is not None and sys.stdout.isatty():
            sys.stdout = _Above(sys.stdout, line)
    try:
        with line:
            _current = line
            yield line
    finally:
        _current = None
        sys.stdout, sys.stderr = before


def said() -> Callable[[], str] | None:
    """What returns the line, for a bar that takes its place; None where no terminal shows it."""
    line = _current
    return (lambda: line.text) if line is not None and line.terminal else None
