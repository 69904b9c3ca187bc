"""Several seeds of one experiment in one process, their outer steps taken together."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bilevel_cli.core import autodiff, episodes, trees
from bilevel_cli.core.host import is_host
from bilevel_cli.core.method import Estimate
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.threads import on_cores
from bilevel_cli.core.trees import Tree
from bilevel_cli.machine import memory
from bilevel_cli.machine.ranks import ALONE
from bilevel_cli.methods.parts import unroll
from bilevel_cli.records.table import Row
from bilevel_cli.runs.driver import drive
from bilevel_cli.runs.runner import Runner
from bilevel_cli.runs.state import Inputs

log = logging.getLogger(__name__)

# Entries that an operation of the losses makes, on average. Above, the time is that of kernels and
# not of calls, and mapping gains nothing on a CPU: 8 seeds of hyper-cleaning, K = 100, one core,
# seconds alone and mapped: 0.38 and 0.18 with 800 entries an operation, 0.59 and 0.39 with 4 000,
# 2.9 and 3.2 with 19 000 (an MLP). It would hold the graphs of all seeds at once, besides.
LARGE = 10_000


class Replicas:
    """Runs that differ in nothing but their seeds, each with its own tables and checkpoints.

    Every replica has its own task, start, random numbers, optimizer and files, and sees the numbers
    that it would see alone, to rounding; one that diverges leaves the others alone. Together they
    take but the outer step, a pure function, in one of two ways:

    * mapped over replicas, where their losses are one function of outer parameters and data: the
      same operations on the same other tensors. The graphs of as many are in memory at once as the
      memory budget of the device holds; with less than two, each goes by itself.
    * each by itself otherwise, and on a CPU where single operations are `LARGE`; there on as many
      threads as torch was given, one core each.

    Args:
        runners: The runs.
    """

    def __init__(self, runners: list[Runner]) -> None:
        self.runners = runners
        self._mappable = True
        self._at_once = len(runners)  # whose graphs the memory budget holds
        self._alike: set[Runner] = set()  # those whose outer steps are known to be one function
        self._steps: dict[int, episodes.OuterStep] = {}  # mapped ones, by the number of replicas

    def run(self) -> list[Row | BaseException]:
        """Takes the outer steps that remain. Returns the last scores of each, or what it raised."""
        ranks = self.runners[0].machine.ranks if self.runners else ALONE
        return drive(self.runners, self._estimates, ranks)

    def _estimates(
        self, runners: list[Runner], inputs: list[Inputs]
    ) -> Sequence[Estimate | Exception]:
        if len(runners) == 1:
            return [_estimate(runners[0], inputs[0])]
        # Again where some join that were ahead of the others, in a run that is continued.
        if self._mappable and not self._alike.issuperset(runners):
            reason = unmappable(runners, inputs)
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


def each_by_itself(runners: list[Runner], inputs: list[Inputs]) -> Sequence[Estimate | Exception]:
    """The estimates of runs, or what they raised; on a CPU on several threads, one core each."""
    first = runners[0]
    if not is_host(first.device) or first.estimate is not first.outer_step:
        return list(map(_estimate, runners, inputs))
    with memory.shared(min(torch.get_num_threads(), len(runners))):
        return on_cores(_estimate, runners, inputs)


def _estimate(runner: Runner, given: Inputs) -> Estimate | Exception:
    try:
        return runner.estimate(*given)
    except Exception as error:
        return error


def at_once(runner: Runner, given: Inputs) -> int:
    """How many runs like this one the memory budget holds the graphs of, when they are mapped.

    Costs two inner steps.
    """
    outer, data, _ = given
    problems = runner.task.episodes
    one = data if problems is None else episodes.first(data)
    steps = runner.method.graphs(one.num_steps) * (problems or 1)
    return memory.budget() // (steps * unroll.graph_bytes(runner.loop, outer, one))


def unmappable(runners: list[Runner], inputs: list[Inputs]) -> str | None:
    """Why one outer step cannot stand for those of all runs, or should not; None where it can."""
    first = runners[0]
    if first.schedule.budget is not None:  # IAPTT mapped takes other inner gradients than alone
        return "the budget is for what each of them takes alone"
    for runner in runners[1:]:
        for name in ("method", "loop.solver", "loop.start"):
            if not _same(name, first, runner):
                return f"{name} depends on the seed"
    traces = [_Trace(runner, *given) for runner, given in zip(runners, inputs, strict=True)]
    if any(trace.differs(traces[0]) for trace in traces[1:]):
        return f"the losses of {type(first.task).__name__} contain what depends on the seed"
    if is_host(first.device) and traces[0].entries > LARGE:
        return "their operations are large"
    return None


def _same(name: str, one: Any, other: Any) -> bool:
    for part in name.split("."):
        one, other = getattr(one, part), getattr(other, part)
    return bool(one == other)


class _Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The operations of a run's problem, and the tensors in them that are not its arguments.

    What an outer step asks of a problem is one function for two runs where both agree.
    """

    def __init__(self, runner: Runner, outer: Any, data: StepData, carry: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Any] = []
        self.others: list[Tensor] = []
        self._kept: list[Tensor] = []  # alive, so that no memory has two owners
        self._numbers: dict[int, int] = {}
        self._made = 0
        problem: Any = runner.task
        one = data if problem.episodes is None else episodes.first(data)
        # Copies: a batch may be a view of what the task holds, and a loss read that instead of it.
        outer, parts = trees.map_leaves(trees.copied, (outer, tuple(one)))
        one = StepData(*parts)
        self.operations += [(x.shape, x.dtype) for x in trees.leaves((outer, parts, carry))]
        for x in trees.leaves((outer, parts)):
            self._number(x)
        with self:
            inner = problem.init_inner(outer, one)
            problem.inner_loss(inner, outer, one.inner_at(-1))
            problem.outer_loss(inner, outer, one.outer)
            problem.project_outer(outer)

    @property
    def entries(self) -> float:
        """Those that an operation makes, on average."""
        return self._made / max(1, len(self.operations))

    def differs(self, other: "_Trace") -> bool:
        return self.operations != other.operations or not all(
            map(torch.equal, self.others, other.others)
        )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        given = torch.utils._pytree.tree_map(self._argument, (args, kwargs or {}))
        result = func(*args, **(kwargs or {}))
        for x in torch.utils._pytree.tree_leaves(result):
            if isinstance(x, Tensor):
                self._number(x)
                self._made += x.numel()
        self.operations.append((str(func), given))
        return result

    def _argument(self, x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        if x.untyped_storage().data_ptr() not in self._numbers:
            self.others.append(x.clone())
        return self._number(x), x.shape, x.stride(), x.storage_offset(), x.dtype

    def _number(self, x: Tensor) -> int:
        self._kept.append(x)
        return self._numbers.setdefault(x.untyped_storage().data_ptr(), len(self._numbers))


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
