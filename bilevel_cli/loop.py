"""The inner loop: where it starts and how it steps, for fixed outer parameters."""

from dataclasses import dataclass
from typing import Any

from bilevel_cli.problem import MinibatchOracle, Problem, StepData
from bilevel_cli.solvers.base import InnerSolver, SolverState
from bilevel_cli.starts.base import Start
from bilevel_cli.trees import Params


@dataclass(frozen=True)
class InnerLoop:
    """The map z_{t+1} = Phi_t(z_t, lambda), as pure functions of its arguments."""

    problem: Problem
    solver: InnerSolver[Any]
    start: Start

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

    def step(self, state: SolverState, outer: Params, data: StepData, t: int) -> SolverState:
        oracle = MinibatchOracle(self.problem, outer, data.inner_at(t), data.outer)
        return self.solver.step(oracle, state)

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
