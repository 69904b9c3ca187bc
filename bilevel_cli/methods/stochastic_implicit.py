"""Implicit differentiation on minibatches, by a Neumann series."""

from dataclasses import dataclass
from typing import Any

import torch

from bilevel_cli.core import references, trees
from bilevel_cli.core.claim import Claim
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Carry, Cost, Estimate, Hypergradient
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.requirements import AT_A_SOLUTION
from bilevel_cli.core.solver import SolverState
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.parts.derivatives import (
    cross_product,
    hessian_product,
    outer_slope,
    relative_residual,
)
from bilevel_cli.methods.parts.series import Series, series_doubt


@dataclass(frozen=True)
class StochasticImplicit(Hypergradient[Carry]):
    """The implicit function theorem at the last inner iterate, with a minibatch for each product,

        dF/dlambda = d_lambda F - (d_lambda d_z f)^T v,    v = series(H_0, H_1, ...) d_z F.

    With the whole series, stocBiO (Ji et al., 2021, arXiv:2010.07962); with one random term, BSA
    (Ghadimi & Wang, 2018, arXiv:1802.02246), and with one inner step and step sizes of two
    timescales TTSA (Hong et al., 2020, arXiv:2007.05170). Assumes a strongly convex inner loss;
    biased by the truncation of the series alone.

    The outer derivatives are taken on the outer minibatch, and the cross derivative on an inner one
    of its own. Reports the size of the last term of the series relative to the first: the residual
    of the terms before it.

    Cost: K + terms inner gradients, terms - 1 products with H and one cross product.

    Args:
        series: The Neumann series.
    """

    series: Series

    @property
    def extra_batches(self) -> int:
        return self.series.products + 1

    def init(self, outer: Params, state: SolverState) -> Carry:
        return {"inner": state}

    def draw(self, outer: Params, generator: torch.Generator) -> Params:
        return self.series.draw(generator)

    requires = AT_A_SOLUTION

    def doubts(self, row: dict[str, float]) -> dict[str, str]:
        return series_doubt(row)

    def estimate(self, loop: InnerLoop, outer: Params, data: StepData, carry: Carry) -> Estimate:
        problem = loop.problem
        state = loop.run(loop.begin(outer, data, carry["inner"]), outer, data)
        inner = state["inner"]
        free = loop.free(inner)
        rhs, direct, loss = outer_slope(problem, inner, outer, data.outer)

        def product(number: int, vector: Params) -> Params:
            batch = data.extra_at(number)
            return trees.masked(hessian_product(problem, inner, outer, batch, vector), free)

        rhs = trees.masked(rhs, free)
        adjoint, left = self.series.sum(product, rhs, data.noise)
        batch = data.extra_at(self.series.products)
        implicit = cross_product(problem, inner, outer, batch, adjoint)
        metrics = {"adjoint_residual": relative_residual(left, rhs)}
        return Estimate(trees.axpy(-1.0, implicit, direct), loss, {"inner": state}, metrics)

    def cost(self, num_steps: int, outer: Params, inner: Params, metrics: dict[str, Any]) -> Cost:
        return Cost(num_steps + self.series.terms, self.series.terms)

    def claim(self) -> Claim:
        text = f"implicit at z_K, {self.series.terms} terms"
        reference = references.implicit(self.series.matrix)
        if self.series.random:
            return Claim(text, reference, tolerance=4.5, kind="mean", repeats=1000)
        return Claim(text, reference)
