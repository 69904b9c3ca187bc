"""Several seeds of one experiment in one process, their outer steps taken together."""

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bilevel_cli.core import autodiff, episodes, growth, trees
from bilevel_cli.core.host import is_host
from bilevel_cli.core.method import Estimate
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.threads import on_cores
from bilevel_cli.core.trees import Tree
from bilevel_cli.machine import memory
from bilevel_cli.machine.looping import NotCompiled
from bilevel_cli.machine.ranks import ALONE
from bilevel_cli.methods.parts import graphs
from bilevel_cli.records.table import Row
from bilevel_cli.runs.driver import drive
from bilevel_cli.runs.fused import Answer, Asked, Fused
from bilevel_cli.runs.one_function import unmappable
from bilevel_cli.runs.progress import Bar
from bilevel_cli.runs.runner import Runner
from bilevel_cli.runs.state import Inputs
from bilevel_cli.runs.stretch import Stretch

log = logging.getLogger(__name__)


class Replicas:
    """Runs that differ in nothing but their seeds, each with its own tables and checkpoints.

    Every replica has its own task, start, random numbers, optimizer and files, and sees the numbers
    that it would see alone, to rounding; one that diverges leaves the others alone. Together they
    take but the outer step, a pure function, in one of three ways:

    * mapped over replicas, where their losses are one function of outer parameters and data: the
      same operations on the same other tensors. The graphs of as many are in memory at once as the
      memory budget of the device holds; with less than two, each goes by itself.
    * each by itself otherwise, and on a CPU where single operations are large
      (`one_function.LARGE`); there on as many threads as torch was given, one core each;
    * each in a compiled loop of its own, on a CPU where outer steps are compiled.

    Args:
        runners: The runs.
    """

    def __init__(self, runners: list[Runner]) -> None:
        self.runners = runners
        self._mappable = True
        self._at_once = len(runners)  # whose graphs the memory budget holds
        self._alike: set[Runner] = set()  # those whose outer steps are known to be one function
        self._fuses = True
        self._together: Fused | None = None
        # Mapped ones, by the number of replicas and whether they are captured.
        self._steps: dict[tuple[int, bool], episodes.OuterStep] = {}

    def run(self, bar: Bar | None = None) -> list[Row | BaseException]:
        """Takes the outer steps that remain. Returns the last scores of each, or what it raised.

        Args:
            bar: As in `Progress`.
        """
        ranks = self.runners[0].machine.ranks if self.runners else ALONE
        return drive(self.runners, self._answers, ranks, bar)

    def _answers(self, runners: list[Runner], asked: list[Asked]) -> Sequence[Answer | Exception]:
        if len(runners) == 1 or all(map(_loops, runners)):
            return list(map(_answer, runners, asked))
        steps = [one.steps for one in asked if isinstance(one, Stretch)]
        inputs = [one for one in asked if not isinstance(one, Stretch)]
        if steps and inputs:  # some have diverged, and go on from an earlier step
            return list(map(_answer, runners, asked))
        alone = not steps and runners[0].fusion.alone(inputs[0])
        fused = None if alone else self._fused(runners)
        if fused is None:
            return list(map(_answer, runners, asked)) if steps else self._estimates(runners, inputs)
        try:
            return fused.advance(min(steps)) if steps else fused.estimates()
        except Exception as error:
            return [error] * len(runners)

    def _fused(self, runners: list[Runner]) -> Fused | None:
        """The outer steps of some replicas as one compiled function; None where they are none."""
        members = [runner.fusion.member for runner in runners]
        known = [member for member in members if member is not None]
        if len(known) < len(members) or not self._fuses or not self._maps(runners):
            return None
        if self._at_once < len(runners):
            return None
        if self._together is None or self._together.members != known:
            try:
                self._together = Fused(known, runners[0].outer_step)
            except NotCompiled as error:
                log.info("The replicas take their outer steps each by itself: %s", error)
                self._fuses, self._together = False, None
        return self._together

    def _maps(self, runners: list[Runner], inputs: list[Inputs] | None = None) -> bool:
        """Whether one outer step can stand for those of all of them, and whether memory holds it.

        Args:
            runners: The runs.
            inputs: Of the next outer step of each, if they are drawn.
        """
        # Again where some join that were ahead of the others, in a run that is continued.
        if self._mappable and not self._alike.issuperset(runners):
            if inputs is None:
                inputs = [runner.state.next_inputs() for runner in runners]
            reason = apart(runners, inputs)
            if reason is None:
                self._at_once = at_once(runners[0], inputs[0])
                reason = "the memory budget holds the graphs of one" if self._at_once < 2 else None
            self._mappable, self._alike = reason is None, set(runners)
            self._steps.clear()
            if reason:
                log.info("The replicas take their outer steps each by itself: %s.", reason)
        return self._mappable

    def _estimates(
        self, runners: list[Runner], inputs: list[Inputs]
    ) -> Sequence[Answer | Exception]:
        if self._maps(runners, inputs):
            try:
                return self._mapped(runners, inputs)
            except Exception as error:  # some operations of torch cannot be mapped
                self._mappable = False
                reason = (str(error) or type(error).__name__).splitlines()[0]
                log.info("The replicas go on each by itself, since mapping failed: %s", reason)
        return each_by_itself(runners, inputs)

    def _mapped(self, runners: list[Runner], inputs: list[Inputs]) -> list[Estimate]:
        count, first = len(runners), runners[0]
        captures = not first.fusion.on or first.fusion.captures_alone
        if (count, captures) not in self._steps:
            chunk = None if self._at_once >= count else self._at_once
            mapped = autodiff.vmap(first.outer_step, chunk_size=chunk)
            taken = first.machine.captured(mapped) if captures else mapped
            self._steps[count, captures] = taken
            if chunk:
                log.info("The memory budget holds the graphs of %d replicas at once.", chunk)
        (outer, data, carry), *others = inputs
        outer, parts, carry = trees.map_leaves(_stack, (outer, tuple(data), carry), *others)
        found = self._steps[count, captures](outer, StepData(*parts), carry)
        return [Estimate(*_row(tuple(found), number)) for number in range(count)]


def apart(runners: list[Runner], inputs: list[Inputs]) -> str | None:
    """Why runs take their outer steps each by itself; None where one step can stand for all."""
    if runners[0].plan.schedule.budget is not None:
        # IAPTT mapped takes other inner gradients than alone.
        return "the budget is for what each of them takes alone"
    return unmappable([runner.experiment for runner in runners], inputs)


def each_by_itself(runners: list[Runner], inputs: list[Inputs]) -> Sequence[Answer | Exception]:
    """The estimates of runs, or what they raised; on a CPU on several threads, one core each."""
    first = runners[0]
    if not is_host(first.machine.device) or first.estimate is not first.outer_step:
        return list(map(_answer, runners, inputs))
    with memory.shared(min(torch.get_num_threads(), len(runners))):
        return on_cores(_answer, runners, inputs)


def _loops(runner: Runner) -> bool:
    """Whether a run takes its outer steps in a compiled loop on a CPU, of its own.

    There an operation costs no more than its numbers, and the examples of one run stay in the
    caches. Of eight runs of SABA on ijcnn1 a step takes 33 microseconds each, and 55 where they are
    mapped into one loop; of SOBA 31, and 37 to 48. Each has to load its loop, for 2 to 9 seconds.
    """
    fusion = runner.fusion
    return is_host(runner.machine.device) and fusion.on and fusion.member is not None


def _answer(runner: Runner, asked: Asked) -> Answer | Exception:
    try:
        return runner.answer(asked)
    except Exception as error:
        return error


def at_once(runner: Runner, given: Inputs) -> int:
    """How many runs like this one the memory budget holds what estimates hold of, when mapped.

    Costs two inner steps.
    """
    outer, data, _ = given
    part = runner.experiment
    problems = part.task.episodes
    one = data if problems is None else episodes.first(data)
    graphs.graph_of_step(part.loop, outer, one)
    sizes = graphs.sized(part.loop, outer, one)
    held = max(growth.numbers(part.method.holds(sizes)), sizes.graph)
    size = next(iter(outer.values())).element_size()
    return memory.budget() // (held * size * (problems or 1))


def _stack(x: Tensor, *others: Tensor) -> Tensor:
    every = (x, *others)
    # A full batch repeats over inner steps: one copy for each replica will do.
    narrow = [trees.narrow(y, y) for y in every]
    if any(y.shape != narrow[0].shape for y in narrow):
        narrow = list(every)
    return torch.stack(narrow).expand(len(every), *x.shape)


def _row(tree: Tree, number: int) -> Tree:
    row: Callable[[Tensor], Tensor] = lambda x: x[number]  # noqa: E731
    return trees.map_leaves(row, tree)
