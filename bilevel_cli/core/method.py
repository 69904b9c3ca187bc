"""The interface of hypergradient methods."""

import abc
from typing import Any, ClassVar, Generic, NamedTuple, TypedDict, TypeVar

import torch
from torch import Tensor

from bilevel_cli.core import references
from bilevel_cli.core.claim import Claim
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.requirements import Requirement
from bilevel_cli.core.solver import SolverState
from bilevel_cli.core.trees import Params, Scalar


class Carry(TypedDict):
    """What a method remembers from one outer step to the next: nested dicts of tensors."""

    inner: Any  # a SolverState; with one more leading dimension where a method runs several


AnyCarry = TypeVar("AnyCarry", bound=Carry)


class Estimate(NamedTuple):
    """The result of one outer step.

    Attributes:
        grad: The hypergradient, with the keys and shapes of the outer parameters.
        loss: The outer loss at the end of the inner loop. 0-dim.
        carry: The memory to pass to the next outer step.
        metrics: What the method has to say for itself. 0-dim tensors, left on the device.
    """

    grad: Params
    loss: Tensor
    carry: Any
    metrics: dict[str, Tensor]


class Cost(NamedTuple):
    """What one estimate of one inner problem takes, in the field's units.

    Attributes:
        inner_grads: Gradients of the inner loss.
        hvps: Second-order products of the inner loss, with its Hessian, with its cross
            derivative, or with both at once.
    """

    inner_grads: Scalar
    hvps: Scalar


class CannotServe(RuntimeError):
    """A method finds out in the middle of an estimate that it cannot serve the problem.

    Such as by a Hessian that turns out to be singular, where no check before the run could tell.
    Its text names the methods to use instead. `bilevel-check` calls it a refusal, and no failure.
    """


class Hypergradient(abc.ABC, Generic[AnyCarry]):
    """An estimator of dF/dlambda, where F(lambda) = outer_loss(z*(lambda), lambda).

    The inner problem is the one that the inner solver minimises: `loop.problem`, whose inner loss
    holds the solver's weight decay, over the set in which the solver keeps z, if it has one.

    Attributes:
        requires: What it asks of an inner loop, of `methods.requirements`.
    """

    requires: ClassVar[tuple[Requirement, ...]] = ()

    remembers: bool = False
    """Whether it carries more than the inner state, which fresh episodes would invalidate."""

    @property
    def extra_batches(self) -> int:
        """Inner minibatches that one estimate consumes besides those of its inner steps."""
        return 0

    def graphs(self, num_steps: int) -> int:
        """Inner steps whose graphs an estimate holds at once, where it is mapped.

        Nobody meters those graphs: by this number and the size of one they are kept to the budget.
        """
        del num_steps
        return 1

    @abc.abstractmethod
    def init(self, outer: Params, state: SolverState) -> AnyCarry:
        """The memory before the first outer step, given a fresh inner state."""

    def begin(self, loop: InnerLoop, outer: Params, data: StepData, state: SolverState) -> AnyCarry:
        """As `init`, for a memory whose size the problem decides."""
        del loop, data
        return self.init(outer, state)

    def draw(self, outer: Params, generator: torch.Generator) -> Params:
        """The random numbers that one estimate consumes, as `data.noise`."""
        del outer, generator
        return {}

    def check(self, loop: InnerLoop, outer: Params, data: StepData) -> None:
        """Raises ValueError, before any work, where the method cannot serve the problem.

        Args:
            loop: The inner loop.
            outer: The outer parameters before the first step.
            data: The data of one inner problem: no episode dimension.
        """
        for requirement in self.requires:
            requirement(type(self).__name__, loop, outer, data)

    follows_inner_loss: ClassVar[bool] = True
    """Whether the inner iterates that `followed` names run down the inner loss."""

    def followed(
        self, loop: InnerLoop, outer: Params, data: StepData, before: AnyCarry, after: AnyCarry
    ) -> tuple[Params, Params]:
        """Where the inner loop of an outer step began and where it ended.

        Args:
            loop: The inner loop.
            outer: The outer parameters before the step.
            data: Of one inner problem.
            before: The memory before the step.
            after: The memory after it.

        Returns:
            Inner parameters, of the shapes of `data.init`: of those that run down the inner loss,
            where a method moves several.
        """
        return loop.begin(outer, data, before["inner"])["inner"], after["inner"]["inner"]

    def zero_tells(self, row: dict[str, float], step: int) -> bool:
        """Whether a hypergradient of exactly zero says that an outer parameter does not act.

        Unless a method says otherwise, always but at the first step of one that remembers, whose
        memory is empty.

        Args:
            row: What was read of an outer step.
            step: Its number, from 1 on.
        """
        del row
        return step > 1 or not self.remembers

    @abc.abstractmethod
    def estimate(self, loop: InnerLoop, outer: Params, data: StepData, carry: AnyCarry) -> Estimate:
        """Runs the inner loop and estimates the hypergradient at `outer`.

        A pure function of its arguments, with control flow that no tensor decides.
        """

    @abc.abstractmethod
    def cost(self, num_steps: int, outer: Params, inner: Params, metrics: dict[str, Any]) -> Cost:
        """The cost of one estimate.

        Args:
            num_steps: Inner steps.
            outer: The outer parameters, for their number.
            inner: The inner parameters of one problem, for theirs.
            metrics: What the estimate reported, where the cost depends on it.
        """

    def doubts(self, row: dict[str, float]) -> dict[str, str]:
        """What the numbers of one row say against the estimate: that it is not what it claims.

        Read on the host, where a row is written, so that it costs no step.

        Args:
            row: One row of train.csv.

        Returns:
            For each kind of doubt, under a short name that never changes: what was seen, with its
            number; the setting to change, by its full name; what to use instead.
        """
        del row
        return {}

    def claim(self) -> Claim:
        """What the estimate is said to be, and to what accuracy: what `bilevel-check` holds it to.

        Unless a method says otherwise, the derivative of F(z_K(lambda), lambda).
        """
        return Claim("dF(z_K)/dlambda", references.unrolled)
