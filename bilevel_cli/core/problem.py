"""What a bilevel problem is, and the data that one outer step consumes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from bilevel_cli.core import autodiff
from bilevel_cli.core.trees import Params

Batch = dict[str, Tensor]


class StepData(NamedTuple):
    """Every random quantity of one outer step, already on the device.

    With this drawn, an outer step is a deterministic function: that is what lets it be mapped
    over episodes, replayed, or evaluated by two methods on the same inputs.

    Attributes:
        init: Fresh inner parameters. Empty where the problem learns its own.
        inner: Minibatches of the inner loss, with a leading dimension K: one per inner step. At
            least one entry, since K is read from it.
        outer: The batch of the outer loss.
        noise: Random numbers that the method asked for. Shared by all episodes.
        extra: Minibatches of the inner loss besides those of the inner steps, with a leading
            dimension: one for each product or gradient that a stochastic method takes on a
            sample of its own. Empty where the method asked for none.
    """

    init: Params
    inner: Batch
    outer: Batch
    noise: Params = {}  # noqa: RUF012 - never written to
    extra: Batch = {}  # noqa: RUF012 - never written to

    @property
    def num_steps(self) -> int:
        return next(iter(self.inner.values())).shape[0]

    def inner_at(self, step: int) -> Batch:
        return {name: value[step] for name, value in self.inner.items()}

    def extra_at(self, number: int) -> Batch:
        """An extra minibatch; the last inner one where none were drawn."""
        if not self.extra:
            return self.inner_at(-1)
        return {name: value[number] for name, value in self.extra.items()}

    def split(self, num_steps: int, axis: int = 0) -> "StepData":
        """The same data with all inner minibatches but the first `num_steps` as extra ones.

        Args:
            num_steps: Inner steps.
            axis: The dimension of minibatches: 1 behind one of episodes.
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

    A problem whose inner solver is to follow what is the gradient of no loss has a method
    `inner_direction(inner, outer, batch)` besides, with the arguments of `inner_loss` and the
    shapes of z. Methods that differentiate the inner steps serve it, and others refuse.
    """

    def init_inner(self, outer: Params, data: StepData) -> Params:
        """The inner parameters at which a fresh inner solve begins."""
        ...

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        """f(z, lambda), a scalar."""
        ...

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        """F(z, lambda), a scalar."""
        ...


@dataclass(frozen=True)
class ProblemWrapper:
    """A problem that is another one but for the inner loss, which a subclass gives.

    Args:
        base: The other problem.
    """

    base: Problem

    def init_inner(self, outer: Params, data: StepData) -> Params:
        return self.base.init_inner(outer, data)

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return self.base.outer_loss(inner, outer, batch)


def inner_direction(problem: Problem, inner: Params, outer: Params, batch: Batch) -> Params:
    """What an inner solver follows: d_z f, unless the problem has an `inner_direction`."""
    if not follows_loss(problem):
        found: Params = problem.inner_direction(inner, outer, batch)  # type: ignore[attr-defined]
        return found
    return autodiff.grad(problem.inner_loss)(inner, outer, batch)


def follows_loss(problem: Problem) -> bool:
    """Whether an inner solver follows the gradient of the inner loss."""
    return not hasattr(problem, "inner_direction")


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
