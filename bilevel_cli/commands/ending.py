"""What bilevel-run says when a run has ended or was stopped: what to type next."""

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString

from bilevel_cli.machine import place
from bilevel_cli.machine.signals import Interrupted
from bilevel_cli.vocabulary import CHECKPOINT, JOB


@dataclass(frozen=True)
class Where:
    """Where a command writes.

    Args:
        key: The setting that says so: hydra.run.dir or hydra.sweep.dir.
        folder: Its value, as typed; that of the default has the time in it.
    """

    key: str
    folder: str

    @property
    def report(self) -> str:
        """The command that reports what the folder holds."""
        return f"bilevel-report {shlex.quote(self.folder)}"

    def again(self, arguments: list[str]) -> str | None:
        """What continues the runs in the folder; None where the same command does.

        Args:
            arguments: Of the command.
        """
        typed = [argument for argument in arguments if argument.startswith(f"{self.key}=")]
        if typed and _unquoted(typed[-1].partition("=")[2]) == self.folder:
            return None
        here = f"{self.key}={_quoted(self.folder)}"
        if place.here().count > 1:  # torchrun has arguments of its own
            return f"the same command with {shlex.quote(here)}"
        others = [argument for argument in arguments if argument not in typed]
        return shlex.join([*_program(), *others, here])

    @property
    def begun(self) -> bool:
        """Whether the folder holds something to go on from."""
        folder = Path(self.folder)
        if self.key == "hydra.sweep.dir":
            return any(folder.rglob(JOB))
        stem, suffix = Path(CHECKPOINT).stem, Path(CHECKPOINT).suffix
        return any(any(folder.glob(f"{part}{stem}*{suffix}")) for part in ("", "seed=*/"))


def stopped(stop: BaseException, where: Where | None, arguments: list[str]) -> str:
    """What to say of runs that a signal stopped.

    Args:
        stop: What it raised.
        where: Where the runs write; None where they had not begun.
        arguments: Of the command.
    """
    if where is None:
        return "interrupted before the run began."
    if not where.begun:
        return "interrupted before the first checkpoint; the same command begins anew."
    step = getattr(stop, "step", None)
    after = f" after step {step}"
    # Stopped at once, a run loses the steps since its last checkpoint.
    saved = isinstance(stop, Interrupted) and step is not None
    done, rest = (after, "") if saved else ("", "" if step is None else after)
    again = where.again(arguments)
    if again is None:
        return f"interrupted{done}; the same command continues{rest}."
    if place.here().count > 1:
        return f"interrupted{done}; {again} continues{rest}."
    return f"interrupted{done}. This continues{rest}:\n  {again}"


def _program() -> list[str]:
    name = Path(sys.argv[0]).name
    return ["python", "-m", "bilevel_cli"] if name == "__main__.py" else ["bilevel-run"]


def _quoted(value: str) -> str:
    """A text as Hydra's grammar reads it."""
    if re.fullmatch(r"[\w./:@+-]+", value):
        return value
    return QuotedString(value, Quote.single).with_quotes()


def _unquoted(value: str) -> str:
    found = re.fullmatch(r"'(.*)'|\"(.*)\"", value)
    return (found[1] or found[2] or "").replace("\\'", "'") if found else value
