"""Whether the outer steps of several runs are one function, which can be mapped over them."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bilevel_cli.core import episodes, trees
from bilevel_cli.core.host import is_host
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.task import Task
from bilevel_cli.runs.experiment import Experiment
from bilevel_cli.runs.state import Inputs

# Entries that an operation of the losses makes, on average. Above, the time is that of kernels and
# not of calls, and mapping gains nothing on a CPU: 8 seeds of hyper-cleaning, K = 100, one core,
# seconds alone and mapped: 0.38 and 0.18 with 800 entries an operation, 0.59 and 0.39 with 4 000,
# 2.9 and 3.2 with 19 000 (an MLP). It would hold the graphs of all seeds at once, besides.
LARGE = 10_000


def unmappable(experiments: list[Experiment], inputs: list[Inputs]) -> str | None:
    """Why one outer step cannot stand for those of all runs, or should not; None where it can.

    Args:
        experiments: Of runs that differ in nothing but their seeds.
        inputs: Of the next outer step of each.
    """
    first = experiments[0]
    for other in experiments[1:]:
        for name in ("method", "loop.solver", "loop.start"):
            if not _same(name, first, other):
                return f"{name} depends on the seed"
    traces = [_Trace(one.task, *given) for one, given in zip(experiments, inputs, strict=True)]
    if any(trace.differs(traces[0]) for trace in traces[1:]):
        return f"the losses of {type(first.task).__name__} contain what depends on the seed"
    outer, _, _ = inputs[0]
    if is_host(next(iter(outer.values())).device) and traces[0].entries > LARGE:
        return "their operations are large"
    return None


def _same(name: str, one: Any, other: Any) -> bool:
    for part in name.split("."):
        one, other = getattr(one, part), getattr(other, part)
    return bool(one == other)


class _Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The operations of a task, and the tensors in them that are not its arguments.

    What an outer step asks of a task is one function for two runs where both agree.
    """

    def __init__(self, task: Task, outer: Any, data: StepData, carry: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Any] = []
        self.others: list[Tensor] = []
        self._kept: list[Tensor] = []  # alive, so that no memory has two owners
        self._numbers: dict[int, int] = {}
        self._made = 0
        one = data if task.episodes is None else episodes.first(data)
        # Copies: a batch may be a view of what the task holds, and a loss read that instead of it.
        outer, parts = trees.map_leaves(trees.copied, (outer, tuple(one)))
        one = StepData(*parts)
        self.operations += [(x.shape, x.dtype) for x in trees.leaves((outer, parts, carry))]
        for x in trees.leaves((outer, parts)):
            self._number(x)
        with self:
            inner = task.init_inner(outer, one)
            task.inner_loss(inner, outer, one.inner_at(-1))
            task.outer_loss(inner, outer, one.outer)
            task.project_outer(outer)

    @property
    def entries(self) -> float:
        """Entries that an operation makes, on average."""
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
