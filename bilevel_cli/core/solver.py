"""The interface of inner solvers, and the settings of them that an outer problem can learn.

A solver is two functions, `init` and `step`, on a state. Three of them, in these terms:

* Gradient descent (`solvers.gd`): the state is z alone; a step is z - lr * oracle.inner_grad(z).
* Momentum (`solvers.momentum`): the state is z and a velocity, which is zero at `init`.
* Projected descent (`solvers.projected`): a step of another solver, whose z is then projected onto
  a set; `within` names the set, so that methods know over what z is minimised.

A solver whose steps are random (`solvers.langevin`) draws nothing in a step. Its `draw` draws the
numbers of all steps beforehand, and a step finds its own in `oracle.draws`. So an estimate stays a
pure function of its data, which can be replayed, mapped and differentiated.
"""

import abc
import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypedDict, TypeVar

import torch
from torch import Tensor

from bilevel_cli.core.oracle import Oracle
from bilevel_cli.core.problem import Problem
from bilevel_cli.core.sets import ConvexSet
from bilevel_cli.core.trees import Params, Scalar


class SolverState(TypedDict):
    """A nested dict of tensors. Each solver adds its memory; all of them keep `inner`.

    Plain dicts are pytrees to torch.func, and load under torch.load(weights_only=True), so no
    solver writes code to map its state over episodes or to checkpoint it. Counters are 0-dim
    floating tensors, because derivatives flow through the whole state. All tensors are on the
    device and in the precision of the inner parameters.

    Attributes:
        inner: The inner parameters z, of the shapes of `StepData.init`.
    """

    inner: Params


State = TypeVar("State", bound=SolverState)


@dataclass(frozen=True)
class Learned:
    """A positive setting of a solver that is an outer parameter: exp(outer[name]).

    Args:
        name: Name of the outer parameter, a 0-dim tensor.
        initial: The setting before the first outer step, > 0. None where the task contributes the
            parameter itself.
    """

    name: str
    initial: float | None = None

    def __post_init__(self) -> None:
        if self.initial is not None and not 0 < self.initial < math.inf:
            raise ValueError(
                f"A learned setting needs initial > 0, got {self.name}: initial={self.initial}."
            )

    def __call__(self, outer: Params) -> Tensor:
        """The setting at `outer`, 0-dim, differentiable in it."""
        return outer[self.name].exp()

    def inverse(self, setting: float) -> float:
        """The value of the outer parameter at which the setting has the value `setting`."""
        return math.log(setting)


class LearnedFraction(Learned):
    """A setting in (0, 1) that is an outer parameter: sigmoid(outer[name]).

    Args:
        name: Name of the outer parameter, a 0-dim tensor.
        initial: The setting before the first outer step, in (0, 1). None where the task contributes
            the parameter itself.
    """

    def __post_init__(self) -> None:
        if self.initial is not None and not 0 < self.initial < 1:
            raise ValueError(
                f"A learned fraction needs initial in (0, 1), got {self.name}: "
                f"initial={self.initial}."
            )

    def __call__(self, outer: Params) -> Tensor:
        return outer[self.name].sigmoid()

    def inverse(self, setting: float) -> float:
        return math.log(setting / (1 - setting))


def value(setting: float | Learned, outer: Params) -> Scalar:
    """The number that a setting stands for: a 0-dim tensor where it is learned."""
    return setting(outer) if isinstance(setting, Learned) else setting


def check_lr(solver: str, lr: float | Learned) -> None:
    """Raises ValueError unless `lr` is a usable step size."""
    if not isinstance(lr, Learned) and not 0 < lr < math.inf:
        raise ValueError(
            f"{solver} needs a finite step size lr > 0, got lr={lr}. Set solver.lr, e.g. 0.1."
        )


class InnerSolver(abc.ABC, Generic[State]):
    """Optimizer dynamics z_{t+1} = Phi(z_t), with all of its memory in the state.

    A solver is a frozen dataclass of settings: it never changes, and changes no argument. It works
    on one inner problem, and is mapped over episodes and differentiated in the whole state, so no
    function of it asks a tensor for its value.

    `posed`, `within` and `no_minimiser` say what it minimises. By default that is the inner loss f,
    over all z.
    """

    @abc.abstractmethod
    def init(self, inner: Params) -> State:
        """The state before the first step.

        A start policy may replace `inner` in it, so the first step must not rely on any other
        entry that depends on the values of `inner`.

        Args:
            inner: Inner parameters of any shapes, which decide device and precision.
        """

    @abc.abstractmethod
    def step(self, oracle: Oracle, state: State) -> State:
        """The state after one step, of the structure, shapes and types of `state`.

        Args:
            oracle: Gives gradients, on the minibatch of this step.
            state: The state before the step.
        """

    @cached_property
    def takes_draws(self) -> bool:
        """Whether its steps take random numbers: by default, whether those that it wraps do."""
        return any(solver.takes_draws for solver in self._wrapped())

    def draw(self, inner: Params, num_steps: int, generator: torch.Generator) -> Params:
        """The random numbers of its steps: a step finds its own in `oracle.draws`.

        Those of different steps are independent. By default they are those of the solvers that it
        wraps.

        Args:
            inner: Inner parameters, for their shapes, device and precision.
            num_steps: Inner steps, of one inner problem or of several.
            generator: Draws them, on the device of `inner`.

        Returns:
            Tensors of shape [num_steps, ...], by names of the solver's own. Empty for a solver that
            takes none.
        """
        found: Params = {}
        for solver in self._wrapped():
            found |= solver.draw(inner, num_steps, generator)
        return found

    @property
    def temperature(self) -> float | None:
        """tau, where the iterates are samples of exp(-f / tau); None where they are not."""
        return None

    @cached_property
    def gradients(self) -> int:
        """Inner gradients that one step takes: by default 1, or those of what it wraps."""
        return max((solver.gradients for solver in self._wrapped()), default=1)

    def posed(self, problem: Problem) -> "tuple[Problem, InnerSolver[Any]]":
        """The problem whose inner loss this solver minimises, and the solver that steps on it.

        A solver that adds a penalty to f returns a problem with that penalty in its inner loss, and
        a solver without it. The two take the steps that this one takes on `problem`.
        """
        return problem, self

    @property
    def within(self) -> ConvexSet | None:
        """The set over which the solver minimises; None for all z."""
        return None

    @property
    def no_minimiser(self) -> str:
        """Why the point where the solver comes to rest minimises no loss; empty where it does."""
        return ""

    def outer_init(self, inner: Params) -> Params:
        """The outer parameters behind the learned settings, of this solver and those it wraps.

        Args:
            inner: Inner parameters, for a solver that learns a setting for each of their entries.

        Returns:
            Tensors by the names of outer parameters: 0-dim, one for each learned setting with an
            initial value, unless a solver learns a setting for each entry of `inner`.
        """
        found: Params = {}
        for field in dataclasses.fields(self):  # type: ignore[arg-type]  # solvers are dataclasses
            setting: Any = getattr(self, field.name)
            if isinstance(setting, Learned) and setting.initial is not None:
                found[setting.name] = torch.tensor(setting.inverse(setting.initial))
            elif isinstance(setting, InnerSolver):
                found |= setting.outer_init(inner)
        return found

    def _wrapped(self) -> "Iterator[InnerSolver[Any]]":
        """The solvers among its settings."""
        for field in dataclasses.fields(self):  # type: ignore[arg-type]  # solvers are dataclasses
            setting: Any = getattr(self, field.name)
            if isinstance(setting, InnerSolver):
                yield setting

    def settings(self, outer: Params) -> Params:
        """The learned settings at `outer`, of this solver and those it wraps.

        Returns:
            0-dim tensors, by the names of the constructor's arguments.
        """
        found: Params = {}
        for field in dataclasses.fields(self):  # type: ignore[arg-type]  # solvers are dataclasses
            setting: Any = getattr(self, field.name)
            if isinstance(setting, Learned):
                found[field.name] = setting(outer)
            elif isinstance(setting, InnerSolver):
                found |= setting.settings(outer)
        return found


def counter(inner: Params, start: float) -> Tensor:
    """A 0-dim count, which begins at `start`, on the device and in the precision of `inner`."""
    return next(iter(inner.values())).new_full((), start)


@dataclass(frozen=True)
class Wrapper(InnerSolver[SolverState]):
    """A solver that changes what another one sees or does, with that one's memory.

    Args:
        base: The solver to run.
    """

    base: InnerSolver[Any]

    def init(self, inner: Params) -> SolverState:
        return self.base.init(inner)

    def posed(self, problem: Problem) -> tuple[Problem, InnerSolver[Any]]:
        problem, base = self.base.posed(problem)
        return problem, dataclasses.replace(self, base=base)

    @property
    def within(self) -> ConvexSet | None:
        return self.base.within

    @property
    def no_minimiser(self) -> str:
        return self.base.no_minimiser
