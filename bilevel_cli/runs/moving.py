"""What moves in a run during its outer steps, and what these are given: trees of tensors."""

from functools import partial

import torch
from torch import Tensor

from bilevel_cli.core import trees
from bilevel_cli.core.trees import Tree
from bilevel_cli.machine.looping import NotCompiled
from bilevel_cli.runs import averaged
from bilevel_cli.runs.ahead import Ahead
from bilevel_cli.runs.flags import Flags
from bilevel_cli.runs.pure_optimizer import Update, step_sizes, update
from bilevel_cli.runs.state import COSTS, RunState


class Member:
    """A run whose outer steps are fused: what moves in it, and what its steps are given.

    Args:
        run: Its state, after its first outer step.
        flags: What it notes of its numbers.

    Raises:
        NotCompiled: There is no pure function for its optimizer.
    """

    def __init__(self, run: RunState, flags: Flags) -> None:
        self.run, self.flags = run, flags
        part, schedule = run.experiment, run.plan.schedule
        if run.ahead is None:
            run.ahead = Ahead(part, schedule.inner_steps, run.outer, run.random)
        self.ahead = run.ahead
        self.updates = updates(run)
        self._device = run.machine.device
        self._carry: Tree = None

    def moving(self) -> Tree:
        """The tensors that an outer step replaces, each in memory of its own."""
        run = self.run
        if run.carry is not self._carry:
            run.carry = self._carry = trees.map_leaves(_own, run.carry)
        # Exact up to 2^53, whatever a run counts in.
        spent = {name: self._placed(getattr(run, name)).double() for name in COSTS}
        return {
            "outer": run.outer,
            "carry": run.carry,
            "memory": trees.map_leaves(self._placed, self._memory()),
            "noted": trees.map_leaves(_own, self.flags.noted()),
            "spent": trees.map_leaves(_own, spent),
            **run.average.saved(),
        }

    def intend(self, moving: Tree) -> None:
        """Has the next outer step go where it has gone in a copy of what moves."""
        self.run.intended = partial(self._optimize, moving)

    def move(self, moving: Tree, steps: int) -> None:
        """Takes over what has moved.

        Args:
            moving: Of the structure that `moving` returns.
            steps: During how many outer steps.
        """
        run = self.run
        self._optimize(moving)
        run.step += steps
        run.carry = self._carry = moving["carry"]
        self.flags.note(moving["noted"])
        for name, total in moving["spent"].items():
            # Reading it waits until the steps are taken: so their time is known, and bounded.
            before, number = getattr(run, name), _number(total)
            known = isinstance(before, Tensor)
            setattr(run, name, torch.full_like(before, number) if known else number)

    def given(self, drawn: Tree, lr: list[list[float]]) -> Tree:
        """What outer steps are given besides what moves, each tensor of shape [steps, ...].

        Args:
            drawn: As `Ahead.draw` returned it.
            lr: The step size of each group of outer parameters, of each step.
        """
        first, average = self.run.step + 1, self.run.average
        numbers = range(first, first + len(lr))
        given = {
            "drawn": drawn,
            "number": torch.arange(first, first + len(lr), device=self._device),
            "lr": self._placed(torch.tensor(lr, dtype=torch.float64)),
        }
        if average.params:
            shares = torch.tensor([average.share(n) for n in numbers], dtype=torch.float64)
            given["share"] = self._placed(shares)
        return given

    def next_given(self, steps: int) -> Tree:
        """What the next steps are given; the streams and the scheduler go on behind them."""
        drawn = self.ahead.draw(steps)
        return self.given(drawn, step_sizes(self.run.scheduler, steps))

    def drawn_given(self) -> Tree:
        """What the next step is given, for which data were drawn."""
        groups = self.run.optimizer.param_groups
        return self.given(self.run.drawn, [[float(group["lr"]) for group in groups]])

    def _optimize(self, moving: Tree) -> None:
        trees.map_leaves(trees.written, self.run.outer, moving["outer"])
        trees.map_leaves(trees.written, self._memory(), moving["memory"])
        self.run.average.become(moving.get(averaged.NAME, {}))

    def _memory(self) -> Tree:
        """What the optimizer remembers, some of it on the host: it may count its steps there."""
        state = self.run.optimizer.state
        return {
            name: {n: x for n, x in state.get(value, {}).items() if isinstance(x, Tensor)}
            for name, value in self.run.outer.items()
        }

    def _placed(self, x: Tensor | float) -> Tensor:
        """A tensor or a number, where the run computes. Waits for nothing."""
        if isinstance(x, Tensor):
            return x.to(self._device, non_blocking=True)
        return torch.full((), x, dtype=torch.float64, device=self._device)


def updates(run: RunState) -> dict[str, tuple[int, Update]]:
    """For each outer parameter the number of its group, and its step as a pure function.

    Raises:
        NotCompiled: There is none.
    """
    names = {id(value): name for name, value in run.outer.items()}
    found: dict[str, tuple[int, Update]] = {}
    for number, group in enumerate(run.optimizer.param_groups):
        step = update(run.optimizer, group)
        if step is None:
            kind = type(run.optimizer).__name__
            raise NotCompiled(f"there is no pure function for the steps of {kind} as it is set")
        found |= {names[id(value)]: (number, step) for value in group["params"]}
    return found


def _number(x: Tensor) -> float:
    found = float(x)
    return int(found) if found.is_integer() else found


def _own(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format)
