"""The hypergradient of a mean over sampled inner parameters, by first derivatives."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.claim import Claim
from bilevel_cli.core.growth import Part, Parts, Sizes
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Carry, Cost, Estimate, Hypergradient
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.requirements import (
    a_sampler,
    losses_depend_on_outer,
    solver_is_constant,
    start_is_constant,
)
from bilevel_cli.core.solver import SolverState
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.parts import gaussian_chain


@dataclass(frozen=True)
class Score(Hypergradient[Carry]):
    """The derivative of J(lambda) = E F(z, lambda), for z from p(z) ~ exp(-f(z, lambda) / tau).

        dJ/dlambda = E d_lambda F - Cov(F, d_lambda f) / tau,

    since d_lambda log p = -(d_lambda f - E d_lambda f) / tau: the score function identity, for the
    bilevel problem over sampled inner parameters of Kim & Hospedales (2025, arXiv:2410.10417). Mean
    and covariance are those of the chain z_t, t = burn_in K, ..., K - 1, that a solver like
    `solver=langevin` leaves, and tau is the solver's. At tau = 0 there would be the minimiser of f,
    and methods for it have no part of this derivative: they do not see that a wider p costs F more.

    Nothing is differentiated through the chain, and f needs no isolated minimiser. Samples follow
    each other closely, so an estimate is noisy: the error falls as 1 / sqrt(K). It reports
    `standard_error`, by the means of `batches` pieces of the chain: the norm over all outer
    parameters, comparable with `grad_norm`. It is too small where a piece is shorter than the chain
    takes to forget, about 1 / (lr * curvature) steps. The outer loss it reports is the mean F.

    Cost: an inner gradient for each step and each sample, and no second derivative.
    Memory: one state, and three trees of the outer parameters for each piece.

    Args:
        burn_in: Share of the steps that are left out at the beginning, in [0, 1).
        batches: Pieces by which the standard error is estimated, >= 2.
    """

    burn_in: float
    batches: int

    def __post_init__(self) -> None:
        if not 0 <= self.burn_in < 1:
            raise ValueError(
                f"Score needs burn_in in [0, 1), got burn_in={self.burn_in}. Set method.burn_in, "
                "e.g. 0.5."
            )
        if self.batches < 2:
            raise ValueError(
                f"Score needs batches >= 2, got batches={self.batches}. Set method.batches to 10."
            )

    def holds(self, sizes: Sizes) -> Parts:
        pieces = min(self.batches, sizes.steps)
        what = f"the sums of {pieces} pieces of the chain"
        return (Part(what, 3 * pieces * sizes.outer, ("method.batches",)),)

    def init(self, outer: Params, state: SolverState) -> Carry:
        return {"inner": state}

    requires = (losses_depend_on_outer, start_is_constant, solver_is_constant, a_sampler)

    def check(self, loop: InnerLoop, outer: Params, data: StepData) -> None:
        super().check(loop, outer, data)
        if data.num_steps < 2:
            raise ValueError(
                f"Score needs two samples at least, got inner_steps={data.num_steps}. Raise "
                "inner_steps: hundreds are usual."
            )

    def doubts(self, row: dict[str, float]) -> dict[str, str]:
        error, size = row.get("standard_error"), row.get("grad_norm")
        if error is None or size is None or error <= size:
            return {}
        return {
            "sampling_error": (
                "The hypergradient is smaller than its own sampling error: "
                f"standard_error={error:.3g}, grad_norm={size:.3g}. Raise inner_steps, or "
                "lower the step size of the outer optimizer, which then averages over more samples."
            )
        }

    def estimate(self, loop: InnerLoop, outer: Params, data: StepData, carry: Carry) -> Estimate:
        tau = loop.solver.temperature
        assert tau is not None, "check refuses a solver that does not sample"
        first = self._first(data.num_steps)
        state = loop.run(loop.begin(outer, data, carry["inner"]), outer, data, last=first)
        origin: _Sample | None = None
        sums = []
        for start, stop in self._pieces(first, data.num_steps):
            total: _Sample | None = None
            for t in range(start, stop):
                here = _sampled(loop, outer, data, state, t)
                if origin is None:
                    origin = here
                shifted = here.after(origin)
                total = shifted if total is None else total.plus(shifted)
                state = loop.step(state, outer, data, t)
            assert total is not None, "no piece is empty"
            sums.append((stop - start, total))
        assert origin is not None, "there is a sample"
        grad, error, mean = _combined(sums, tau)
        return Estimate(grad, origin.loss + mean, {"inner": state}, {"standard_error": error})

    def cost(self, num_steps: int, outer: Params, inner: Params, metrics: dict[str, Any]) -> Cost:
        return Cost(2 * num_steps - self._first(num_steps), 0)

    def claim(self) -> Claim:
        """Where the law of the chain is Gaussian and the losses are quadratic, the mean is known.

        It is not yet that of p: a chain of K steps has not reached it, and its samples depend.
        """
        return Claim(
            "E d_lambda F - Cov(F, d_lambda f)/tau over the chain, in the mean",
            gaussian_chain.expected_score(self._first),
            tolerance=4.5,  # passed by chance once in 10^5 entries
            kind="mean",
            repeats=400,
            over_draws=True,
        )

    def _first(self, num_steps: int) -> int:
        """The step before which the first sample is taken; two are taken at least."""
        return max(0, min(int(self.burn_in * num_steps), num_steps - 2))

    def _pieces(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Where the pieces of the chain begin and end; they differ by a sample in length."""
        count = min(self.batches, last - first)
        yield from pairwise(first + (last - first) * number // count for number in range(count + 1))


class _Sample(NamedTuple):
    """What one sample z_t tells, or a sum over samples.

    Attributes:
        loss: F, 0-dim; from the second on less that of the first sample, to cancel fewer digits.
        slope: d_lambda f, likewise less that of the first one; on the minibatch of the next step,
            of which z_t is independent.
        product: F d_lambda f.
        direct: d_lambda F.
    """

    loss: Tensor
    slope: Params
    product: Params
    direct: Params

    def after(self, origin: "_Sample") -> "_Sample":
        """The same sample as it differs from another one, with its product."""
        loss, slope = self.loss - origin.loss, trees.axpy(-1.0, origin.slope, self.slope)
        return _Sample(loss, slope, trees.scale(loss, slope), self.direct)

    def plus(self, other: "_Sample") -> "_Sample":
        return _Sample(
            self.loss + other.loss,
            *(trees.axpy(1.0, x, y) for x, y in zip(self[1:], other[1:], strict=True)),
        )


def _sampled(loop: InnerLoop, outer: Params, data: StepData, state: SolverState, t: int) -> _Sample:
    inner, problem = state["inner"], loop.problem
    direct, loss = autodiff.grad_and_value(problem.outer_loss, 1)(inner, outer, data.outer)
    slope = autodiff.grad(problem.inner_loss, 1)(inner, outer, data.inner_at(t))
    return _Sample(loss, slope, {}, direct)


def _combined(sums: list[tuple[int, _Sample]], tau: float) -> tuple[Params, Tensor, Tensor]:
    """The hypergradient, the norm of its standard errors, and the mean of F, of all pieces."""
    count = sum(length for length, _ in sums)
    total = sums[0][1]
    for _, piece in sums[1:]:
        total = total.plus(piece)
    loss, slope = total.loss / count, trees.scale(1 / count, total.slope)

    def contribution(length: int, piece: _Sample) -> Params:
        """The sum over a piece of d_lambda F - (F - mean)(d_lambda f - mean) / tau."""
        return {
            name: piece.direct[name]
            - (
                piece.product[name]
                - loss * piece.slope[name]
                - piece.loss * slope[name]
                + length * loss * slope[name]
            )
            * (count / (count - 1) / tau)
            for name in slope
        }

    grad = trees.scale(1 / count, contribution(count, total))
    squares = [
        trees.axpy(-1.0, grad, trees.scale(1 / length, contribution(length, piece)))
        for length, piece in sums
    ]
    variance = torch.stack([trees.dot(gap, gap) for gap in squares]).sum()
    return grad, (variance / (len(sums) * (len(sums) - 1))).sqrt(), loss
