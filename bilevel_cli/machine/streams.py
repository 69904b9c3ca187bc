"""Standard input, output and error as a shell left them: closed, full, or without a reader.

A command ends as it would have ended before a patient reader: `| head -1` cuts what is printed, not
what is done, and the exit code tells of the work. Imports no torch.
"""

import errno
import functools
import io
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

from bilevel_cli.errors import Unwritten

Command = Callable[[], None]


class Stream(io.FileIO):
    """A file descriptor to which writing never fails: what nobody takes is dropped.

    Else each print would raise, and the last one would do so when Python ends.

    Args:
        descriptor: Open, to write to.
        name: For messages of Python's.

    Attributes:
        refused: Why the last write failed that did; None where none has.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self.name = name
        self.refused: OSError | None = None
        self._terminal = self.isatty()

    def write(self, content: Any) -> int:
        try:
            return super().write(content)
        except OSError as error:
            self.refused = error
            return memoryview(content).nbytes

    @property
    def left(self) -> bool:
        """Whether the reader is gone: of a pipe, or with the terminal."""
        gone = (errno.EPIPE, errno.ECONNRESET, *((errno.EIO,) if self._terminal else ()))
        return self.refused is not None and self.refused.errno in gone


_output: Stream | None = None
_elsewhere = False  # whether what is printed is in a file too


def stands(name: str) -> Callable[[Command], Command]:
    """Has a command stand whatever the shell did to its standard streams.

    Where the reader of standard output left, the command goes on and ends as it would have. Where a
    disk is full, it goes on too, but an answer that is nowhere else ends with 3 and one line.

    Args:
        name: Of the command, for that line.
    """

    def standing(command: Command) -> Command:
        @functools.wraps(command)
        def begin() -> None:
            global _elsewhere
            _elsewhere = False
            prepare()
            try:
                command()
            except SystemExit as end:
                if end.code or not _lost():
                    raise
            if reason := _lost():
                print(f"{name}: Standard output could not be written: {reason}.", file=sys.stderr)
                sys.exit(Unwritten.code)

        return begin

    return standing


def prepare() -> None:
    """Opens standard streams that are closed, and has writing to them never fail.

    A file of the run would get the number of a closed stream, and then what is printed. Standard
    streams that are no files of the system, as in tests and notebooks, stay as they are.
    """
    global _output
    for descriptor in (0, 1, 2):  # in this order: each gets the lowest number that is free
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 # for good
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__"):
            continue
        raw = Stream(number, f"<{name}>")
        setattr(sys, name, _patient(raw, stream))
        if stream is None:
            setattr(sys, f"__{name}__", getattr(sys, name))
        _output = raw if number == 1 else _output


def left() -> bool:
    """Whether the reader of standard output is known to be gone."""
    return _output is not None and _output.left


def is_elsewhere() -> None:
    """Notes that what this command prints is in a file too, so that no printing need succeed."""
    global _elsewhere
    _elsewhere = True


def _patient(raw: Stream, like: TextIO | None) -> TextIO:
    """The text stream that writes to `raw`, as buffered and encoded as another one."""
    if not isinstance(like, io.TextIOWrapper):
        return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", "replace", line_buffering=True)
    like.flush()
    unbuffered = isinstance(like.buffer, io.RawIOBase)  # python -u
    return io.TextIOWrapper(
        raw if unbuffered else io.BufferedWriter(raw),
        like.encoding,
        like.errors,
        line_buffering=like.line_buffering,
        write_through=like.write_through,
    )


def _lost() -> str | None:
    """Why something that was printed is lost; None where nothing is, or nobody wanted it."""
    if _output is None or _elsewhere:
        return None
    sys.stdout.flush()
    if _output.refused is None or _output.left:
        return None
    return _output.refused.strerror
