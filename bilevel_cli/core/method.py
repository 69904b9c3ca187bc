"""The interface of hypergradient methods.

A method is one function, `estimate`, from the present outer parameters, the data of one outer step
and a memory to the hypergradient and the next memory. Three of them, in the terms of this file:

* Reverse (`methods.reverse`): differentiate F(z_K(lambda), lambda) through the K inner steps. The
  memory is the inner state alone, from which a warm start goes on.
* Implicit (`methods.implicit`): solve H v = d_z F at z_K, where H = d_z^2 f, and return
  d_lambda F - (d_lambda d_z f)^T v. The memory is the inner state and the adjoint v, from which the
  next solve may begin.
* Evolution strategies (`methods.es`): weigh random perturbations of lambda, which `draw` draws,
  with the outer losses behind them.
"""

import abc
from typing import Any, ClassVar, Generic, NamedTuple, TypedDict, TypeVar

import torch
from torch import Tensor

from bilevel_cli.core import references
from bilevel_cli.core.claim import Claim
from bilevel_cli.core.growth import Parts, Sizes
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.requirements import Requirement
from bilevel_cli.core.solver import SolverState
from bilevel_cli.core.trees import Params, Scalar


class Carry(TypedDict):
    """What a method remembers from one outer step to the next: nested dicts of tensors.

    Plain dicts are mapped over episodes, saved in checkpoints and brought back by the runner. A
    method never changes one that it was given: each estimate returns a new one, of the same
    structure, shapes and types, on the device of the outer parameters.
    """

    inner: Any  # a SolverState: where the inner loop stopped, which the next start may go on from


AnyCarry = TypeVar("AnyCarry", bound=Carry)


class Estimate(NamedTuple):
    """The result of one outer step.

    Attributes:
        grad: The hypergradient, with the keys, shapes and types of the outer parameters.
        loss: The outer loss at the end of the inner loop. 0-dim.
        carry: The memory to pass to the next outer step.
        metrics: What the method reports of the estimate, as columns of train.csv: 0-dim tensors,
            left on the device.

    No tensor of it is attached to a graph.
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


def cost_of(
    method: "Hypergradient[Any]",
    loop: InnerLoop,
    num_steps: int,
    outer: Params,
    inner: Params,
    metrics: dict[str, Any],
) -> Cost:
    """`Hypergradient.cost` of a loop, whose solver may take several inner gradients in a step.

    Arguments as there. What an estimate takes besides its inner steps counts once, also where that
    is one more step, as for method=fixed_point.
    """
    times = loop.solver.gradients
    if times == 1:
        return method.cost(num_steps, outer, inner, metrics)
    # Where an estimate has counted its steps, that number is all that changes.
    counted = {n: times * x if n in Cost._fields else x for n, x in metrics.items()}
    whole, rest = (method.cost(count, outer, inner, counted) for count in (num_steps, 0))
    return Cost(
        *(one + (times - 1) * (one - other) for one, other in zip(whole, rest, strict=True))
    )


class CannotServe(RuntimeError):
    """A method finds out in the middle of an estimate that it cannot serve the problem.

    Such as by a Hessian that turns out to be singular, where no check before the run could tell.
    Its text names the methods to use instead. `bilevel-check` calls it a refusal, and no failure.
    """


class Hypergradient(abc.ABC, Generic[AnyCarry]):
    """An estimator of dF/dlambda, where F(lambda) = outer_loss(z*(lambda), lambda).

    The inner problem is the one that the inner solver minimises: `loop.problem`, whose inner loss
    holds the solver's weight decay, over the set in which the solver keeps z, if it has one.

    A method holds settings and never changes. What it remembers travels in `carry`, and what is
    random in `data`. Arguments that appear in many functions:

    * loop: The inner loop.
    * outer: The outer parameters, each of any shape, on the device and in the precision of the run.
      The optimizer moves them in place between two outer steps, so a method that remembers them
      keeps copies. A method itself changes none of its arguments.
    * data: The data of one inner problem, without a dimension of episodes, on the same device. Over
      episodes, estimates are mapped: their control flow must not depend on the value of a tensor.
    * carry: The memory, as `init` began it: its structure, shapes and types never change.

    The order of the functions here is that of every file of `methods/`.
    """

    remembers: bool = False
    """Whether it carries more than the inner state, which fresh episodes would invalidate."""

    @property
    def extra_batches(self) -> int:
        """Inner minibatches that one estimate consumes besides those of its inner steps."""
        return 0

    def extras(self, num_steps: int) -> int:
        """`extra_batches`, for a method of which each inner step consumes some of them.

        Args:
            num_steps: All inner steps.
        """
        del num_steps
        return self.extra_batches

    @property
    def whole_every(self) -> int | None:
        """Outer steps from one that is given all examples (`StepData.whole`) to the next.

        The first outer step is such a one. None for a method that takes minibatches alone. An
        estimate may ask whether `data.whole` is empty, which no tensor decides.
        """
        return None

    def holds(self, sizes: Sizes) -> Parts:
        """What one estimate of one inner problem holds at once, memory of earlier steps included.

        Besides what every method holds: parameters, data, and graphs of an inner step or two.

        Args:
            sizes: Of the inner problem.
        """
        del sizes
        return ()

    @abc.abstractmethod
    def init(self, outer: Params, state: SolverState) -> AnyCarry:
        """The memory before the first outer step.

        Args:
            outer: The outer parameters.
            state: A fresh state of the inner solver, which becomes the memory's "inner".
        """

    def begin(self, loop: InnerLoop, outer: Params, data: StepData, state: SolverState) -> AnyCarry:
        """The memory before the first outer step, where the problem decides its size.

        Unless a method says otherwise, that of `init`. Arguments as in the class and in `init`.
        """
        del loop, data
        return self.init(outer, state)

    def draw(self, outer: Params, generator: torch.Generator) -> Params:
        """The random numbers that one estimate consumes: it finds them in `data.noise`.

        Args:
            outer: The outer parameters, for their shapes.
            generator: Draws them, on its own device. Episodes of one step share what it draws.

        Returns:
            Tensors by names of the method's own, of the same shapes at every call.
        """
        del outer, generator
        return {}

    requires: ClassVar[tuple[Requirement, ...]] = ()
    """What it asks of an inner loop, of `core.requirements`."""

    def check(self, loop: InnerLoop, outer: Params, data: StepData) -> None:
        """Raises ValueError, before any work, where the method cannot serve the problem.

        Args:
            loop: The inner loop.
            outer: The outer parameters before the first step.
            data: The data of one inner problem: no episode dimension.
        """
        for requirement in self.requires:
            requirement(type(self).__name__, loop, outer, data)

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

    def zero_tells(self, row: dict[str, float], step: int) -> bool:
        """Whether a hypergradient of exactly zero says that an outer parameter does not act.

        Unless a method says otherwise, it always does, except at the first step of a method that
        remembers: there its memory is empty.

        Args:
            row: One row of train.csv.
            step: The number of its outer step, from 1 on.
        """
        del row
        return step > 1 or not self.remembers

    follows_inner_loss: ClassVar[bool] = True
    """Whether the inner iterates that `followed` names run down the inner loss."""

    def followed(
        self, loop: InnerLoop, outer: Params, data: StepData, before: AnyCarry, after: AnyCarry
    ) -> tuple[Params, Params]:
        """Where the inner loop of an outer step began and where it ended.

        Args:
            loop: The inner loop.
            outer: The outer parameters before the step.
            data: The data of one inner problem.
            before: The memory before the step.
            after: The memory after it.

        Returns:
            Inner parameters, of the shapes of `data.init`. A method that moves several of them
            returns those that run down the inner loss.
        """
        return loop.begin(outer, data, before["inner"])["inner"], after["inner"]["inner"]

    @abc.abstractmethod
    def estimate(self, loop: InnerLoop, outer: Params, data: StepData, carry: AnyCarry) -> Estimate:
        """Runs the inner loop and estimates the hypergradient at `outer`.

        A pure function of its arguments, with control flow that no tensor decides.

        Raises:
            CannotServe: The estimate itself shows that the method cannot serve the problem.
        """

    @abc.abstractmethod
    def cost(self, num_steps: int, outer: Params, inner: Params, metrics: dict[str, Any]) -> Cost:
        """The cost of one estimate of one inner problem.

        Args:
            num_steps: Inner steps.
            outer: The outer parameters, for their number.
            inner: The inner parameters of one problem, for their number.
            metrics: What the estimate reported, where the cost depends on it.
        """

    def claim(self) -> Claim:
        """What the estimate is said to be, and to what accuracy: `bilevel-check` holds it to that.

        Unless a method says otherwise, the derivative of F(z_K(lambda), lambda).
        """
        return Claim("dF(z_K)/dlambda", references.unrolled)

    def takes_products(self, num_steps: int, outer: Params, inner: Params) -> bool:
        """Whether an estimate takes second derivatives of the problem; arguments as in `cost`.

        A method whose cost depends on what an estimate has reported is taken to.
        """
        try:
            return bool(self.cost(num_steps, outer, inner, {}).hvps)
        except KeyError:
            return True
