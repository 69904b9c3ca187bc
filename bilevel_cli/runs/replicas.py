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
from bilevel_cli.machine.ranks import ALONE
from bilevel_cli.methods.parts import graphs
from bilevel_cli.records.table import Row
from bilevel_cli.runs.driver import drive
from bilevel_cli.runs.one_function import unmappable
from bilevel_cli.runs.progress import Bar
from bilevel_cli.runs.runner import Runner
from bilevel_cli.runs.state import Inputs

log = logging.getLogger(__name__)


class Replicas:
    """Runs that differ in nothing but their seeds, each with its own tables and checkpoints.

    Every replica has its own task, start, random numbers, optimizer and files, and sees the numbers
    that it would see alone, to rounding; one that diverges leaves the others alone. Together they
    take but the outer step, a pure function, in one of two ways:

    * mapped over replicas, where their losses are one function of outer parameters and data: the
      same operations on the same other tensors. The graphs of as many are in memory at once as the
      memory budget of the device holds; with less than two, each goes by itself.
    * each by itself otherwise, and on a CPU where single operations are large
      (`one_function.LARGE`); there on as many threads as torch was given, one core each.

    Args:
        runners: The runs.
    """

    def __init__(self, runners: list[Runner]) -> None:
        self.runners = runners
        self._mappable = True
        self._at_once = len(runners)  # whose graphs the memory budget holds
        self._alike: set[Runner] = set()  # those whose outer steps are known to be one function
        self._steps: dict[int, episodes.OuterStep] = {}  # mapped ones, by the number of replicas

    def run(self, bar: Bar | None = None) -> list[Row | BaseException]:
        """Takes the outer steps that remain. Returns the last scores of each, or what it raised.

        Args:
            bar: As in `Progress`.
        """
        ranks = self.runners[0].machine.ranks if self.runners else ALONE
        return drive(self.runners, self._estimates, ranks, bar)

    def _estimates(
        self, runners: list[Runner], inputs: list[Inputs]
    ) -> Sequence[Estimate | Exception]:
        if len(runners) == 1:
            return [_estimate(runners[0], inputs[0])]
        # Again where some join that were ahead of the others, in a run that is continued.
        if self._mappable and not self._alike.issuperset(runners):
            reason = apart(runners, inputs)
            if reason is None:
                self._at_once = at_once(runners[0], inputs[0])
                reason = "the memory budget holds the graphs of one" if self._at_once < 2 else None
            self._mappable, self._alike = reason is None, set(runners)
            self._steps.clear()
            if reason:
                log.info("The replicas take their outer steps each by itself: %s.", reason)
        if self._mappable:
            try:
                return self._mapped(runners, inputs)
            except Exception as error:  # some operations of torch cannot be mapped
                self._mappable = False
                reason = (str(error) or type(error).__name__).splitlines()[0]
                log.info("The replicas go on each by itself, since mapping failed: %s", reason)
        return each_by_itself(runners, inputs)

    def _mapped(self, runners: list[Runner], inputs: list[Inputs]) -> list[Estimate]:
        count, first = len(runners), runners[0]
        if count not in self._steps:
            chunk = None if self._at_once >= count else self._at_once
            mapped = autodiff.vmap(first.outer_step, chunk_size=chunk)
            self._steps[count] = first.machine.captured(mapped)
            if chunk:
                log.info("The memory budget holds the graphs of %d replicas at once.", chunk)
        (outer, data, carry), *others = inputs
        outer, parts, carry = trees.map_leaves(_stack, (outer, tuple(data), carry), *others)
        found = self._steps[count](outer, StepData(*parts), carry)
        return [Estimate(*_row(tuple(found), number)) for number in range(count)]


def apart(runners: list[Runner], inputs: list[Inputs]) -> str | None:
    """Why runs take their outer steps each by itself; None where one step can stand for all."""
    if runners[0].plan.schedule.budget is not None:
        # IAPTT mapped takes other inner gradients than alone.
        return "the budget is for what each of them takes alone"
    return unmappable([runner.experiment for runner in runners], inputs)


def each_by_itself(runners: list[Runner], inputs: list[Inputs]) -> Sequence[Estimate | Exception]:
    """The estimates of runs, or what they raised; on a CPU on several threads, one core each."""
    first = runners[0]
    if not is_host(first.machine.device) or first.estimate is not first.outer_step:
        return list(map(_estimate, runners, inputs))
    with memory.shared(min(torch.get_num_threads(), len(runners))):
        return on_cores(_estimate, runners, inputs)


def _estimate(runner: Runner, given: Inputs) -> Estimate | Exception:
    try:
        return runner.estimate(*given)
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
