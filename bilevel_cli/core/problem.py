"""What a bilevel problem is, and the data that one outer step consumes.

In this package z is called `inner` and lambda `outer`. Both are flat dicts of floating tensors
(`Params`), of any shapes, which stay the same for a whole run. All tensors that meet in one call
are on one device, and no function writes into a tensor that it is given.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeGuard

from torch import Tensor

from bilevel_cli.core import autodiff
from bilevel_cli.core.trees import Params, Tree

Batch = dict[str, Tensor]
"""What a loss sees, by name: whatever tensors the problem likes."""


class StepData(NamedTuple):
    """Every random quantity of one outer step, already on the device of the problem.

    Once this is drawn, an outer step is a deterministic function. So it can be mapped over
    episodes, replayed, or evaluated by two methods on the same inputs. With E episodes, every
    tensor but those of `noise` has one more leading dimension, E.

    Attributes:
        init: Fresh inner parameters, of the shapes of z. Empty where the problem learns its own.
        inner: The minibatches of K inner steps, tensors of shape [K, ...]. It has at least one
            entry, since K is read from it.
        outer: The batch of the outer loss, tensors of shape [...].
        noise: The random numbers that the method asked for (`Hypergradient.draw`). All episodes
            share them.
        extra: More minibatches of the inner loss, tensors of shape [M, ...] with the names of
            `inner`: one for each product or gradient that a stochastic method takes on a sample of
            its own (`Hypergradient.extra_batches`). Empty where the method asked for none.
        whole: Both sums over all examples, "inner" and "outer", as batches without a leading
            dimension, at the outer steps for which the method asked (`Hypergradient.whole_every`).
            Empty at all others, and for a task whose minibatches are whole.
        draws: The random numbers of the K inner steps that the solver asked for
            (`InnerSolver.draw`), tensors of shape [K, ...]. Each episode has its own. Empty for a
            solver that asks for none.
    """

    init: Params
    inner: Batch
    outer: Batch
    noise: Params = {}  # noqa: RUF012 - never written to
    extra: Batch = {}  # noqa: RUF012 - never written to
    whole: dict[str, Batch] = {}  # noqa: RUF012 - never written to
    draws: Params = {}  # noqa: RUF012 - never written to

    @property
    def num_steps(self) -> int:
        """K, where `inner` has no dimension of episodes."""
        return next(iter(self.inner.values())).shape[0]

    def inner_at(self, step: int) -> Batch:
        """The minibatch of one inner step, tensors of shape [...]; -1 is the last step."""
        return {name: value[step] for name, value in self.inner.items()}

    def draws_at(self, step: int) -> Params:
        """The random numbers of one inner step, tensors of shape [...]."""
        return {name: value[step] for name, value in self.draws.items()}

    def extra_at(self, number: int) -> Batch:
        """An extra minibatch, tensors of shape [...]; the last inner one where there is none."""
        if not self.extra:
            return self.inner_at(-1)
        return {name: value[number] for name, value in self.extra.items()}

    def split(self, num_steps: int, axis: int = 0) -> "StepData":
        """The same data, in which inner minibatches after the first `num_steps` are extra ones.

        Args:
            num_steps: Inner steps, from 1 to K.
            axis: The dimension of minibatches: 0, or 1 behind a dimension of episodes.
        """
        inner = {n: value.narrow(axis, 0, num_steps) for n, value in self.inner.items()}
        rest = {
            name: value.narrow(axis, num_steps, value.shape[axis] - num_steps)
            for name, value in self.inner.items()
        }
        some = next(iter(rest.values()))
        return self._replace(inner=inner, extra=rest if some.shape[axis] else {})


class Problem(Protocol):
    """min over lambda of F(z*(lambda), lambda), where z*(lambda) minimises f(., lambda).

    All three functions are pure: the same arguments give the same result, bit for bit. They are
    differentiated, several times, and mapped over episodes. So they ask no tensor for its value,
    draw no random numbers, and return new tensors that autograd can follow to `inner` and `outer`.

    An inner problem may be a vector field G(z, lambda) in place of the gradient of f. The problem
    then has one more function, `inner_field(inner, outer, batch)`, with the arguments of
    `inner_loss`. It returns G with the keys and shapes of z. Inner solvers step along G, and
    z*(lambda) is a root, G(z*, lambda) = 0: the fixed point of a network, an equilibrium of
    players, where weighted gradients cancel. The Jacobian d_z G need not be symmetric. Implicit
    methods solve with its transpose. What needs a symmetric matrix, such as conjugate gradient, or
    the value of a loss, such as a penalty, refuses. The inner loss of such a problem is a number
    to look at, such as |G|^2 / 2.

    Where the inner loss is a loss of what a model puts out, the problem may say so (`OutputLoss`).
    """

    def init_inner(self, outer: Params, data: StepData) -> Params:
        """The inner parameters at which a fresh inner solve begins; they may depend on `outer`.

        Args:
            outer: The outer parameters: the problem's own, and others that it ignores.
            data: The data of one inner problem, without a dimension of episodes.
        """
        ...

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        """f(z, lambda) on a minibatch, 0-dim.

        Args:
            inner: z, with the keys and shapes that `init_inner` returns.
            outer: lambda: the problem's own parameters, and others that it ignores.
            batch: One entry of `StepData.inner`, tensors of shape [...].
        """
        ...

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        """F(z, lambda) on the outer batch, 0-dim.

        Args:
            inner: As in `inner_loss`.
            outer: As in `inner_loss`.
            batch: `StepData.outer`.
        """
        ...


class OutputLoss(Problem, Protocol):
    """A problem whose inner loss is a loss of what a model puts out.

        f(z, lambda) = h(o(z, lambda), z, lambda),

    with the outputs o of the model and a loss h of them, which sees z itself for what it adds, such
    as a penalty. The Gauss-Newton matrix of f is made of the two (`methods.parts.gauss_newton`): it
    leaves out the curvature of o.
    """

    def inner_outputs(self, inner: Params, outer: Params, batch: Batch) -> Tree:
        """o(z, lambda), a tensor or a tree of tensors of any shapes; arguments as `inner_loss`."""
        ...

    def loss_of_outputs(self, outputs: Any, inner: Params, outer: Params, batch: Batch) -> Tensor:
        """h(o, z, lambda), 0-dim; behind the outputs, arguments are as in `inner_loss`."""
        ...

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        outputs = self.inner_outputs(inner, outer, batch)
        return self.loss_of_outputs(outputs, inner, outer, batch)


@dataclass(frozen=True)
class ProblemWrapper:
    """A problem with the start and the outer loss of another one; a subclass adds the inner loss.

    Args:
        base: The other problem.
    """

    base: Problem

    def init_inner(self, outer: Params, data: StepData) -> Params:
        return self.base.init_inner(outer, data)

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return self.base.outer_loss(inner, outer, batch)


def inner_field(problem: Problem, inner: Params, outer: Params, batch: Batch) -> Params:
    """What inner solvers step along: d_z f, or the `inner_field` G of a problem that has one.

    Args:
        problem: The problem.
        inner: z.
        outer: lambda.
        batch: A minibatch of the inner loss.

    Returns:
        A vector with the keys and shapes of z.
    """
    if not follows_loss(problem):
        found: Params = problem.inner_field(inner, outer, batch)  # type: ignore[attr-defined]
        return found
    return autodiff.grad(problem.inner_loss)(inner, outer, batch)


def follows_loss(problem: Problem) -> bool:
    """Whether the inner field is the gradient of the inner loss: its Jacobian is symmetric."""
    return not hasattr(problem, "inner_field")


def has_outputs(problem: Problem) -> TypeGuard[OutputLoss]:
    """Whether the problem is an `OutputLoss`, or a wrapper of one that keeps its outputs."""
    return hasattr(problem, "inner_outputs")


def posed_by(problem: Problem) -> Problem:
    """The problem behind what solvers, methods and processes have put around it."""
    return posed_by(problem.base) if isinstance(problem, ProblemWrapper) else problem


def episodes_of(problem: Problem) -> int | None:
    """The number of inner problems that share the outer parameters; None for a single one.

    A number, even 1, means that data, inner parameters and memories have a leading dimension.
    """
    found: int | None = getattr(problem, "episodes", None)  # a problem may be no task
    return found


def blocks_of(problem: Problem) -> tuple[int, int]:
    """The numbers of blocks of inner and of outer examples; 1 and 1 where there are no blocks."""
    found: tuple[int, int] | None = getattr(problem, "blocks", None)
    return found or (1, 1)


def projected(problem: Problem, outer: Params) -> Params:
    """The nearest admissible outer parameters; `outer` itself where the problem bounds nothing."""
    project: Callable[[Params], Params] | None = getattr(problem, "project_outer", None)
    return outer if project is None else project(outer)
