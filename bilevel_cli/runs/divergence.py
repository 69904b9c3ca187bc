"""What becomes of a run in which a number is not finite."""

import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bilevel_cli.core import trees
from bilevel_cli.core.trees import Params
from bilevel_cli.errors import Failed, UsageError, out_of_memory
from bilevel_cli.records.table import Row
from bilevel_cli.runs.descent import COLUMNS
from bilevel_cli.runs.judgement import Judgement

log = logging.getLogger(__name__)

LOWER = "Lower optimizer.lr or solver.lr."
SINGULAR = (
    "Its matrix may be singular: method=minres, method=galet and method=pseudo_inverse solve such "
    "systems; or lower solver.lr."
)
RESTORES = 10  # times that a run goes back before it gives up: its outer step size is then 1/1024


class Diverged(Exception):
    """A number that the run reports is not finite, or a linear system has no finite solution."""


class Divergence:
    """Stops a run, lets it go on, or sends it back to its last checkpoint.

    Args:
        policy: `on_divergence`, as in `Plan`.
        kept: Asks whether there is a checkpoint of an earlier step.
        alike: Asks whether all processes of the run have come to the same error.
        judgement: What the run noted of steps without a row, and what its method doubts.

    Attributes:
        since: The first step with a number that is not finite, in a run that went on.
        restores: Times that the run went back.
        last: Why the last row is not finite, in a run that goes on; None where it is finite.
    """

    def __init__(
        self,
        policy: str,
        kept: Callable[[], bool],
        alike: Callable[[], bool],
        judgement: Judgement,
    ) -> None:
        self.policy, self._kept, self._alike, self._judgement = policy, kept, alike, judgement
        self.since: int | None = None
        self.restores = 0
        self.last: Diverged | None = None

    def check_row(self, step: int, row: Row) -> None:
        """Raises Diverged where a number is not finite; a run that goes on notes it instead.

        A number of this row, or one of the outer parameters or their hypergradient at any step
        since the last one. An inner loss that is none is doubted, and ends no run.

        Args:
            step: Outer steps taken.
            row: Numbers or scores, by column.
        """
        bad = [n for n, value in row.items() if n not in COLUMNS and not math.isfinite(value)]
        self._note(step, bad)

    def check_outer(self, step: int, outer: Params) -> None:
        """As `check_row`, of the outer parameters, before they are saved."""
        finite = torch.stack([value.isfinite().all() for value in outer.values()]).tolist()
        named = zip(outer, finite, strict=True)
        self._note(step, [f"outer parameter {name}" for name, good in named if not good])

    def to_go_back(self, error: Exception, step: int, watched: Any) -> Diverged:
        """Why the run goes back to its last checkpoint.

        Args:
            error: What an outer step, or a check after it, raised.
            step: Outer steps taken.
            watched: A tree of parameters that are finite unless the run diverged.

        Raises:
            Exception: `error`, where the run did not diverge.
            Diverged: The run did, and is not to go back, or has done so too often.
        """
        diverged = error if isinstance(error, Diverged) else self._behind(error, step, watched)
        if diverged is None:
            raise error
        if self.policy != "restore" or not self._kept():
            raise diverged from error.__cause__
        if self.restores == RESTORES:
            raise Diverged(f"{diverged} The run went back {RESTORES} times.") from error.__cause__
        return diverged

    def _note(self, step: int, bad: list[str]) -> None:
        noted = self._judgement.noted()
        first = min(noted.values(), default=step)
        if not bad and not noted:
            return
        names = " and no finite ".join(name for name, at in noted.items() if at == first)
        if bad:
            reason = f"At step {step} there is no finite {' and no finite '.join(bad)}."
            if first < step:
                reason += f" Already at step {first} there was no finite {names}."
        else:
            seen = f", as seen at step {step}" if first < step else ""
            reason = f"At step {first} there was no finite {names}{seen}."
        diverged = self._diverged(reason)
        if bad:
            self.last = diverged
        if self.policy != "continue":
            raise diverged
        if self.since is None:
            self.since = first
            log.warning("%s The run goes on, since on_divergence=continue.", diverged)

    def _behind(self, error: Exception, step: int, watched: Any) -> Diverged | None:
        """The divergence that shows itself as another error, if it is one."""
        reason = (str(error) or type(error).__name__).splitlines()[0]
        advice = LOWER
        if isinstance(error, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
            found = f"After step {step} a linear system has no finite solution: {reason}"
            advice = SINGULAR if all(map(_finite, trees.leaves(watched))) else LOWER
        elif isinstance(error, UsageError | Failed | OSError) or out_of_memory(error):
            return None
        elif not all(map(_finite, trees.leaves(watched))):
            found = f"After step {step} parameters are not finite: {reason}"
        else:
            return None
        if not self._alike():  # then nothing of what follows, in which all take part
            return None
        diverged = self._diverged(found, advice)
        diverged.__cause__ = error
        return diverged

    def _diverged(self, reason: str, advice: str = LOWER) -> Diverged:
        there = self._kept()
        kept = " The checkpoint of an earlier step is kept." if there else ""
        way_out = self._judgement.doubts.of_method() or advice
        if there and self.policy == "stop" and way_out == LOWER:
            way_out = f"{LOWER[:-1]}, or go on from there with on_divergence=restore."
        return Diverged(f"{reason}{kept} {way_out}")


def _finite(x: Tensor) -> bool:
    return bool(x.isfinite().all())
