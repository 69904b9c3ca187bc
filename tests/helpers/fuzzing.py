"""Command lines run in this process, and what is wrong with how one ended."""

import contextlib
import io
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import pytest
import torch
from commands import close_logs
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from bilevel_cli.commands import run as cli

SECONDS = 2.0  # after which a command line that was accepted is stopped
HUNG = 60.0  # after which it is stopped wherever it is
# An import that is broken off leaves half a module to all lines that follow. Where omegaconf is
# broken off, it raises an error of its own instead, which Hydra wraps in one without a message.
WHOLE = ("importlib", "/omegaconf/", "/antlr4/")
ROOM = 2**31  # bytes that one may take besides what the tests have
LINES, LETTERS = 3, 400  # at most, in a message


class StillRunning(BaseException):
    """The command line was accepted, and takes its time."""


class Ended(NamedTuple):
    code: int | None  # None: still running
    out: str
    err: str


def run(arguments: list[str]) -> Ended:
    """The command, in this process: importing torch again takes seconds."""

    since = time.monotonic()

    def stop(signum: int, frame: FrameType | None) -> None:
        while frame is not None and time.monotonic() - since < HUNG:
            if any(name in frame.f_code.co_filename for name in WHOLE):
                return
            frame = frame.f_back
        raise StillRunning

    out, err = io.StringIO(), io.StringIO()
    argv, sys.argv = sys.argv, ["bilevel-run", *arguments]
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS, 0.5)  # again: destructors swallow exceptions
    code: int | None = 0
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            warnings.catch_warnings(),
            torch.enable_grad(),
        ):
            warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, for its developers
            cli.main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except StillRunning:
        code = None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        sys.argv = argv
    return Ended(code, out.getvalue(), err.getvalue())


def files(folder: Path) -> set[str]:
    return {
        os.path.relpath(os.path.join(base, name), folder)
        for base, folders, names in os.walk(folder)
        for name in [*folders, *names]
    }


def complaint(arguments: list[str], home: Path) -> str | None:
    """What is wrong with how a command line ended; `home` is empty and all it may write to."""
    for path in home.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (home / "work").mkdir()
    os.chdir(home / "work")
    ended = run(arguments)
    os.chdir(home)
    written = files(home)
    runs = {path.parent for path in home.rglob("manifest.json")}
    statuses = [json.loads((path / "manifest.json").read_text())["status"] for path in runs]
    said = ended.out + ended.err
    stray = [
        name
        for name in sorted(written)
        if not name.startswith("work/outputs/") and name not in ("work", "work/outputs")
    ]
    if "Traceback" in said:
        return f"a traceback: {said}"
    if stray:
        return f"files elsewhere: {stray[:5]}"
    if ended.code is None or ended.code == 0:
        return None
    # A run whose numbers left what floats can hold did what it was asked.
    if ended.code == 1 and statuses and set(statuses) <= {"diverged", "oom"}:
        return None
    if ended.code != 2:
        return f"exit code {ended.code}, {statuses}: {said[-2000:]}"
    _, found, text = ended.err.partition("bilevel-run: ")
    if not found or not text.strip() or "\nbilevel-run: " in text:
        return f"exit code 2 without one message: {said[-2000:]!r}"
    text = text.rstrip()
    if len(text) > LETTERS or text.count("\n") >= LINES:
        return f"a message of {len(text)} letters: {text}"
    return None


def every_line(
    lines: st.SearchStrategy[list[str]],
    check: Callable[[list[str]], None],
    count: int,
    number: int,
) -> None:
    """Holds so many command lines, drawn by the seed `number`, to a check.

    One that fails is shown as it is: looking for a shorter one takes too long.
    """
    drawn = settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    seed(number)(drawn(given(lines)(check)))()


@pytest.fixture
def home() -> Iterator[Path]:
    """An empty folder, where a command finds all that it could write to, and little memory."""
    names = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TMPDIR")
    before = {name: os.environ.get(name) for name in names}
    limits, here = resource.getrlimit(resource.RLIMIT_AS), Path.cwd()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, limits[1]))
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            os.environ[name] = folder
        yield Path(folder)
        os.chdir(here)
        close_logs()
    resource.setrlimit(resource.RLIMIT_AS, limits)
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
