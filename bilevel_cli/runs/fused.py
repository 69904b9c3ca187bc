"""Outer steps between two rows, as one compiled function."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.episodes import OuterStep
from bilevel_cli.core.method import Estimate
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.trees import Params, Scalar, Tree
from bilevel_cli.machine.looping import Loop, NotCompiled
from bilevel_cli.runs import averaged
from bilevel_cli.runs.flags import Flags
from bilevel_cli.runs.moving import Member
from bilevel_cli.runs.state import COSTS, Inputs, RunState
from bilevel_cli.runs.stretch import Stretch, alike

log = logging.getLogger(__name__)

LONGEST = 1024  # outer steps of a call
BYTES = 2**25  # of what is drawn for them ahead
FEWEST = 4  # outer steps of a call, for which it is worth to be compiled
SECONDS = 0.25  # of a call, about: a signal waits for its end


class Taken(NamedTuple):
    """Outer steps that were taken as one function.

    Attributes:
        steps: Their number.
        report: What the last of them reports, still on the device.
    """

    steps: int
    report: dict[str, Scalar]


Asked = Inputs | Stretch
Answer = Estimate | Taken
"""The estimate of an outer step, for its inputs; or the steps that were taken, for a stretch."""


class Fused:
    """Outer steps of runs that differ in nothing but their seeds, mapped, as one compiled function.

    It is all that an outer step without a row consists of: data, estimate, costs, optimizer,
    projection, and notes on numbers that are not finite. Data are drawn ahead, from the streams of
    each run. So any step may be taken by itself instead, before and after.

    Args:
        members: The runs.
        outer_step: The outer step of one of them.

    Raises:
        NotCompiled: It cannot be compiled. Nothing has changed.
    """

    def __init__(self, members: Sequence[Member], outer_step: OuterStep) -> None:
        self.members = list(members)
        self._at_once = 1
        example = self._together([self._example(member) for member in self.members], 1)
        bytes_each = sum(x.nbytes for x in trees.leaves(example))
        self._longest = min(LONGEST, BYTES // bytes_each)
        if self._longest < FEWEST:
            raise NotCompiled("the data of a step are large")
        self._room = trees.map_leaves(lambda x: x.new_zeros(self._longest, *x.shape[1:]), example)
        one = _one_step(self.members[0], outer_step)
        step = one if len(self.members) == 1 else autodiff.vmap(one)

        def fused(moving: Tree, given: Tree) -> tuple[Tree, Tree]:
            # Each run gathers from examples of its own: it is their numbers that are mapped.
            rows = self._apart(given["drawn"])
            data = [tuple(m.ahead.data(row)) for m, row in zip(self.members, rows, strict=True)]
            return step(moving, {**given, "drawn": self._together(data, 0)})

        machine = self.members[0].run.machine
        self._loop: Loop = machine.looped(fused, self._moving(), self._room)
        self._compare(outer_step)

    def advance(self, steps: int) -> list[Taken]:
        """Takes outer steps of each run, as many as take a moment, and `steps` at most."""
        steps = min(steps, self._at_once, self._longest)
        began = time.perf_counter()
        moving = self._moving()
        report = self._taken(moving, [member.next_given(steps) for member in self.members])
        for member, own in zip(self.members, self._apart(moving), strict=True):
            member.move(own, steps)
        took = time.perf_counter() - began
        if took < SECONDS / 2:
            self._at_once = max(self._at_once, 2 * steps)
        elif took > SECONDS:
            self._at_once = max(1, steps // 2)
        return [
            Taken(steps, {**row["report"], **{name: getattr(member.run, name) for name in COSTS}})
            for member, row in zip(self.members, report, strict=True)
        ]

    def estimates(self) -> list[Estimate]:
        """The estimates of the next outer step, for which the runs have drawn.

        No run moves yet; when it takes the step, it goes where the compiled one has gone.
        """
        moving = trees.map_leaves(torch.clone, self._moving())
        report = self._taken(moving, [member.drawn_given() for member in self.members])
        for member, own in zip(self.members, self._apart(moving), strict=True):
            member.intend(own)
        return [
            Estimate(row["grad"], row["report"]["outer_loss"], own["carry"], row["metrics"])
            for row, own in zip(report, self._apart(moving), strict=True)
        ]

    def _compare(self, outer_step: OuterStep) -> None:
        """Raises NotCompiled where the next hypergradient is another one than by itself.

        A compiler has faults too. Costs one outer step.
        """
        drawn, inputs = [member.run.drawn for member in self.members], []
        for member in self.members:
            with member.ahead.undone():
                inputs.append(member.run.draw())
        found = self.estimates()
        for member, before, one, given in zip(self.members, drawn, inputs, found, strict=True):
            member.run.drawn, member.run.intended = before, None
            own = outer_step(*one).grad
            size = float(trees.norm(own))
            gap = float(trees.norm(trees.axpy(-1.0, own, given.grad)))
            if math.isfinite(size) and not gap <= _tolerance(own) * size:
                raise NotCompiled(f"compiled, its hypergradient is {gap / size:.2g} off")

    def _taken(self, moving: Tree, given: list[Tree]) -> list[Tree]:
        """Has so many steps change what moves. Returns what the last one reports, of each run."""
        together = self._together(given, 1)
        trees.map_leaves(lambda room, x: room[: len(x)].copy_(x), self._room, together)
        return self._apart(self._loop(moving, self._room, len(together["number"])))

    def _example(self, member: Member) -> Tree:
        groups = len(member.run.optimizer.param_groups)
        with member.ahead.undone():
            return member.given(member.ahead.draw(1), [[0.0] * groups])

    def _moving(self) -> Tree:
        return self._together([member.moving() for member in self.members], 0)

    def _together(self, every: list[Tree], dim: int) -> Tree:
        if len(every) == 1:
            return every[0]
        return trees.map_leaves(lambda *xs: torch.stack(xs, dim), *every)

    def _apart(self, tree: Tree) -> list[Tree]:
        if len(self.members) == 1:
            return [tree]
        rows = range(len(self.members))
        return [trees.map_leaves(lambda x, row=row: x[row], tree) for row in rows]


class Fusion:
    """The outer steps of one run, fused where that can be.

    The first one never is, since the optimizer and some starts begin their memory in it, nor is one
    that is given all examples. A step with a row is taken by itself, so that all can be measured,
    but is estimated by the same function.

    Args:
        run: The state of the run.
        flags: What it notes of its numbers.
        outer_step: Its outer step.
        wanted: Whether to fuse.
    """

    def __init__(
        self,
        run: RunState,
        flags: Flags,
        outer_step: OuterStep,
        wanted: bool,
    ) -> None:
        self._run, self._flags = run, flags
        self.outer_step = outer_step
        self.on = wanted and min(run.plan.schedule.cadence) > 1
        self.member: Member | None = None
        self._fused: Fused | None = None

    def steps(self) -> int:
        """Outer steps before the next one with a row, if they are to be fused; else 0."""
        if not self.on or self._run.step == 0:
            return 0
        if self.member is None:
            try:
                self.member = Member(self._run, self._flags)
            except Exception as error:
                self.give_up(error)
                return 0
        return alike(self._run)

    def answer(self, asked: Asked, unfused: OuterStep) -> Answer:
        """What the run asks for; `unfused` as in `estimate`."""
        if isinstance(asked, Stretch):
            return self.advance(asked.steps)
        return self.estimate(asked, unfused)

    def advance(self, steps: int) -> Taken:
        """Takes outer steps, as many as take a moment, and `steps` at most."""
        fused = self._compiled()
        if fused is None:
            return Taken(0, {})
        (taken,) = fused.advance(steps)
        return taken

    def estimate(self, inputs: Inputs, unfused: OuterStep) -> Estimate:
        """The estimate of the next outer step, with a row.

        Args:
            inputs: Of the step, as the run has drawn them.
            unfused: The outer step as it is taken where it cannot be fused.
        """
        if self.alone(inputs):
            return (unfused if self.captures_alone else self.outer_step)(*inputs)
        fused = self._compiled()
        return unfused(*inputs) if fused is None else fused.estimates()[0]

    @property
    def captures_alone(self) -> bool:
        """Whether steps that are never fused are captured: those that come again, where a recording
        is made at once. To compile them would take longer than they do.
        """
        often = self._run.experiment.method.whole_every is not None
        return often and self._run.machine.capture == "cuda_graph"

    def alone(self, inputs: Inputs) -> bool:
        """Whether a step is of those that are never fused."""
        _, data, _ = inputs
        return self.on and (self._run.step == 0 or bool(data.whole))

    def give_up(self, error: Exception) -> None:
        """Goes on step by step, and says why."""
        log.info("The outer steps are taken one by one: %s", error)
        self.on, self.member, self._fused, self._run.ahead = False, None, None, None

    def _compiled(self) -> Fused | None:
        if self.on and self._fused is None and self.member is not None:
            try:
                self._fused = Fused([self.member], self.outer_step)
            except NotCompiled as error:
                self.give_up(error)
        return self._fused if self.on else None


def _tolerance(grad: Params) -> float:
    """Beyond rounding, which methods that divide by something small have made larger."""
    return float(torch.finfo(next(iter(grad.values())).dtype).eps ** 0.25)


def _one_step(member: Member, outer_step: OuterStep) -> Callable[[Tree, Tree], tuple[Tree, Tree]]:
    """One outer step of a run, as a pure function of what moves and what it is given: its data,
    its number and the step sizes.

    Args:
        member: The run.
        outer_step: Its outer step.
    """
    part = member.run.experiment
    flags, problems = member.flags, part.task.episodes or 1

    def step(moving: Tree, given: Tree) -> tuple[Tree, Tree]:
        outer, memory = moving["outer"], moving["memory"]
        data = StepData(*given["drawn"])
        grad, loss, carry, metrics = outer_step(outer, data, moving["carry"])
        cost = member.run.cost(carry, metrics)._asdict()
        spent = {name: total + problems * cost[name] for name, total in moving["spent"].items()}
        pairs = {}
        for name, value in outer.items():
            group, moved = member.updates[name]
            pairs[name] = moved(value, grad[name], memory[name], given["lr"][group])
        after = part.task.project_outer({name: value for name, (value, _) in pairs.items()})
        noted, looked = moving["noted"], flags.looked(grad, after)
        if looked:
            largest = torch.stack([x.abs().amax() for x in looked])
            noted = flags.after(noted, given["number"], largest)
        columns = {n: x for n, x in metrics.items() if n not in COSTS}
        average = moving.get(averaged.NAME)
        kept = {} if average is None else averaged.joined(average, after, given["share"])
        return {
            "outer": after,
            "carry": carry,
            "memory": {name: kept for name, (_, kept) in pairs.items()},
            "noted": noted,
            "spent": spent,
            **({averaged.NAME: kept} if kept else {}),
        }, {
            "grad": grad,
            "metrics": metrics,
            "report": {"outer_loss": loss, "grad_norm": trees.norm(grad), **columns},
        }

    return step
