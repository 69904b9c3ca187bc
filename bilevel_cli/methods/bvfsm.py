"""Sequential minimisation of the value function, regularised and penalised."""

import math
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from bilevel_cli.core import autodiff, references, trees
from bilevel_cli.core.claim import Claim
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Cost, Estimate
from bilevel_cli.core.oracle import MinibatchOracle
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.schedules import PowerLaw
from bilevel_cli.core.trees import Params, Scalar
from bilevel_cli.methods.parts.value_penalty import (
    PenaltyCarry,
    Proximal,
    ValuePenalty,
    penalised_gradient,
)


@dataclass(frozen=True)
class Bvfsm(ValuePenalty):
    """Bi-level value-function-based sequential minimisation (Liu et al., 2021, arXiv:2110.04974).

    The paper has several penalties and barriers for the constraint f(y) <= f*_mu. This is its
    quadratic penalty:

        phi(lambda) = min_y F(y, lambda) + theta/2 |y|^2 + max(0, f(y, lambda) - f*_mu(lambda))^2
                      / (2 sigma),        f*_mu(lambda) = min_z f(z, lambda) + mu/2 |z|^2.

    The inner loop runs twice, for z and for y; the estimate is the gradient of phi, in which y and
    z are constants by the envelope theorem:

        d_lambda [ F(y, lambda) + m (f(y, lambda) - f(z, lambda)) ],    m = max(0, ...) / sigma.

    So the violation of the constraint decides the multiplier m, which grows as sigma^(-1/3) where f
    is strongly convex. With the decay r_k = `decay`(k), outer step k has theta r_k, mu r_k^2 and
    sigma r_k^3. Then m grows as 1 / r_k, and all parts of the bias fall as r_k. Thanks to the terms
    in theta and mu, neither f nor F need be convex, and f may have several minimisers.

    Steps of y divide the gradient by 1 + m + step_size |f_y|^2 / sigma. The curvature of the
    penalty is m d_y^2 f + f_y f_y^T / sigma, so a step size that serves F and f serves phi too.
    Nothing divides the step of lambda: an outer step that leaves y far behind meets a penalty of
    fourth order. Lower optimizer.lr or raise sigma where that diverges.

    The start is not differentiated: its outer parameters are refused. Reports the gap
    f(y) - f(z) and m.

    Cost: 2 K + 2 inner gradients, and K values of the inner loss, which count as gradients.

    Args:
        sigma: Scale of the penalty, > 0. The smaller, the steeper.
        mu: Weight of the regulariser of z, >= 0. A large one lets y miss the constraint.
        theta: Weight of the regulariser of y, >= 0.
        decay: r_k at outer step k.
        step_size: Of the order of 1 / (largest eigenvalue of d_y^2 f). Usually the learning rate of
            the inner solver.
    """

    sigma: float
    mu: float
    theta: float
    decay: PowerLaw
    step_size: float

    def __post_init__(self) -> None:
        for name, least in (
            ("sigma", "> 0"),
            ("step_size", "> 0"),
            ("mu", ">= 0"),
            ("theta", ">= 0"),
        ):
            value = getattr(self, name)
            if not 0 <= value < math.inf or (value == 0 and least == "> 0"):
                raise ValueError(
                    f"Bvfsm needs a finite {name} {least}, got {name}={value}. Set method.{name}."
                )

    def estimate(
        self, loop: InnerLoop, outer: Params, data: StepData, carry: PenaltyCarry
    ) -> Estimate:
        rate = self.decay(carry["count"])
        theta, mu, sigma = self.theta * rate, self.mu * rate**2, self.sigma * rate**3
        origin = trees.zeros_like(carry["inner"]["inner"])
        value = loop.begin(outer, data, carry["value"])
        for t in range(data.num_steps):
            oracle = loop.oracle(outer, data, t)
            value = loop.solver.step(Proximal(oracle, mu, origin), value)
        z = value["inner"]
        allowed = 0.5 * mu * trees.dot(z, z)  # f*_mu - f(z)
        state = loop.begin(outer, data, carry["inner"])
        for t in range(data.num_steps):
            batch = data.inner_at(t)
            level = loop.problem.inner_loss(z, outer, batch) + allowed
            state = loop.solver.step(
                _Penalised(
                    loop.problem,
                    outer,
                    batch,
                    data.outer,
                    level,
                    theta,
                    sigma,
                    self.step_size,
                    loop,
                ),
                state,
            )

        def multiplier(gap: Tensor) -> Tensor:
            return (gap - allowed).clamp(min=0.0) / sigma

        grad, loss, gap = penalised_gradient(
            loop, outer, data, state["inner"], z, lambda gap: 0.5 * sigma * multiplier(gap) ** 2
        )
        following: PenaltyCarry = {"inner": state, "value": value, "count": carry["count"] + 1}
        return Estimate(grad, loss, following, {"inner_gap": gap, "multiplier": multiplier(gap)})

    def cost(self, num_steps: int, outer: Params, inner: Params, metrics: dict[str, Any]) -> Cost:
        return Cost(3 * num_steps + 2, 0)

    def claim(self) -> Claim:
        """The bias is O(decay): at a constant one, a tenth as large, a tenth."""
        at = replace(self, sigma=1e-6, mu=1e-8, theta=1e-4, decay=PowerLaw(1.0, 0.0))
        return Claim(
            "the hypergradient, but for O(decay)",
            references.solution,
            kind="rate",
            repeats=100,
            base=at,
            variant=replace(at, decay=PowerLaw(0.1, 0.0)),
            ratio=(0.07, 0.14),
        )


@dataclass(frozen=True)
class _Penalised(MinibatchOracle):
    """The objective of y, its gradient divided by what makes it steeper than F + f."""

    level: Tensor
    theta: Scalar
    sigma: Scalar
    step_size: float
    loop: InnerLoop

    def inner_grad(self, inner: Params) -> Params:
        value_fn = autodiff.grad_and_value(self.problem.inner_loss)
        slope, loss = value_fn(inner, self.outer, self.inner_batch)
        multiplier = (loss - self.level).clamp(min=0.0) / self.sigma
        direction = trees.axpy(self.theta, inner, self.outer_grad(inner))
        direction = trees.axpy(multiplier, slope, direction)
        # Entries on a bound do not move along f_y, which does not vanish there.
        slope = trees.masked(slope, self.loop.free(inner))
        steepness = 1 + multiplier + self.step_size * trees.dot(slope, slope) / self.sigma
        return trees.scale(1 / steepness, direction)
