"""The inner loop: where it starts and how it steps, for fixed outer parameters."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bilevel_cli.core import autodiff
from bilevel_cli.core.oracle import MinibatchOracle
from bilevel_cli.core.problem import Problem, StepData
from bilevel_cli.core.solver import InnerSolver, SolverState
from bilevel_cli.core.start import Start
from bilevel_cli.core.trees import Params

# For the annotation of an inner function: torch.compile evaluates it, and cannot subscript a type.
Begun = tuple[Params, SolverState]


@dataclass(frozen=True)
class InnerLoop:
    """The map z_{t+1} = Phi_t(z_t, lambda), as pure functions of its arguments.

    Args:
        problem: The problem as the task poses it. What is kept is the problem that the solver
            minimises: the solver's weight decay is part of its inner loss, so that no method needs
            to know of it.
        solver: The inner solver. What is kept takes the same steps on the problem that is kept.
        start: Where each inner solve begins.
    """

    problem: Problem
    solver: InnerSolver[Any]
    start: Start

    def __post_init__(self) -> None:
        problem, solver = self.solver.posed(self.problem)
        object.__setattr__(self, "problem", problem)
        object.__setattr__(self, "solver", solver)

    def outer_init(self, data: StepData, outer: Params) -> Params:
        """The outer parameters that the start and the solver learn besides the problem's own.

        Args:
            data: The data of one inner problem.
            outer: The problem's own, which may be where inner parameters begin.
        """
        inner = self.problem.init_inner(outer, data)
        return {**self.start.outer_init(data), **self.solver.outer_init(inner)}

    def fresh(self, outer: Params, data: StepData) -> SolverState:
        """The state of an inner solve that knows nothing of earlier outer steps."""
        return self.solver.init(self.problem.init_inner(outer, data))

    def begin(self, outer: Params, data: StepData, previous: SolverState) -> SolverState:
        """The state this outer step starts from, differentiable in `outer`."""
        return self.start(self.fresh(outer, data), outer, previous)

    def begin_with_pullback(
        self, outer: Params, data: StepData, previous: SolverState
    ) -> tuple[SolverState, Callable[[Params], Params]]:
        """As `begin`, with the derivative of the inner parameters z_0 at which it begins.

        Args:
            outer: The outer parameters.
            data: The data of one inner problem.
            previous: The state at which the last outer step stopped, a constant.

        Returns:
            The state, whose `inner` is z_0(outer), and the function from v to (dz_0/dlambda)^T v: v
            has the shapes of the inner parameters, the result those of `outer`. It may be called
            repeatedly.
        """

        def start(outer: Params) -> Begun:
            state = self.begin(outer, data, previous)
            return state["inner"], state

        _, pullback, state = autodiff.vjp(start, outer, has_aux=True)

        def pulled_back(cotangent: Params) -> Params:
            slopes: Params = pullback(cotangent)[0]
            return slopes

        return state, pulled_back

    def free(self, inner: Params) -> Params | None:
        """1 where the solver's set lets an entry move, 0 where it holds it; None without a set."""
        within = self.solver.within
        return None if within is None else within.free(inner)

    def draw(
        self, outer: Params, data: StepData, num_steps: int, generator: torch.Generator
    ) -> Params:
        """The random numbers of so many inner steps, [num_steps, ...]; {} where a step takes none.

        Args:
            outer: The outer parameters.
            data: The data of one inner problem, for the shapes of the inner parameters.
            num_steps: How many steps.
            generator: Draws them, on the device of the data.
        """
        if not self.solver.takes_draws:
            return {}
        return self.solver.draw(self.problem.init_inner(outer, data), num_steps, generator)

    def drawn(self, outer: Params, data: StepData, generator: torch.Generator) -> StepData:
        """The data of one inner problem with the random numbers of its inner steps."""
        draws = self.draw(outer, data, data.num_steps, generator)
        return data._replace(draws=draws) if draws else data

    def oracle(self, outer: Params, data: StepData, t: int) -> MinibatchOracle:
        """The problem as the solver sees it in one inner step."""
        batch, draws = data.inner_at(t), data.draws_at(t)
        return MinibatchOracle(self.problem, outer, batch, data.outer, draws=draws)

    def step(self, state: SolverState, outer: Params, data: StepData, t: int) -> SolverState:
        return self.solver.step(self.oracle(outer, data, t), state)

    def run(
        self,
        state: SolverState,
        outer: Params,
        data: StepData,
        first: int = 0,
        last: int | None = None,
    ) -> SolverState:
        """Steps `first` to `last` (excluded; all of `data` when None)."""
        for t in range(first, data.num_steps if last is None else last):
            state = self.step(state, outer, data, t)
        return state

    def passing(
        self, state: SolverState, outer: Params, data: StepData, counts: Sequence[int]
    ) -> Iterator[SolverState]:
        """The states after several numbers of steps, of one run through them all.

        Args:
            state: Before the first step.
            outer: The outer parameters.
            data: Of as many inner steps as the largest number at least.
            counts: Numbers of steps, ascending.
        """
        taken = 0
        for count in counts:
            state, taken = self.run(state, outer, data, taken, count), count
            yield state
