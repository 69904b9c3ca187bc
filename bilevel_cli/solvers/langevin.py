"""Langevin steps: the inner loop samples parameters in place of minimising over them."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch

from bilevel_cli.core import draws, trees
from bilevel_cli.core.oracle import Oracle
from bilevel_cli.core.solver import InnerSolver, Learned, SolverState, check_lr, value
from bilevel_cli.core.trees import Params


@dataclass(frozen=True)
class Langevin(InnerSolver[SolverState]):
    """z_{t+1} = z_t - lr * grad f(z_t) + sqrt(2 * lr * tau) * xi_t, with standard normal xi_t.

    The iterates tend to samples of p(z), proportional to exp(-f(z, lambda) / tau). With minibatches
    this is stochastic gradient Langevin dynamics (SGLD; Welling & Teh, 2011), by which Kim &
    Hospedales (2025, arXiv:2410.10417) sample the inner parameters of a bilevel problem. A step of
    size eps on f / tau, as SGLD is usually written, has lr = eps^2 / (2 tau): then the noise is
    eps * xi_t. So lr is the step size of gradient descent and is stable where that is, whatever
    tau; and tau = 0 is gradient descent, bit for bit.

    Steps are not corrected for their size: where the curvature of f is h, the variance is
    tau / (h (1 - lr h / 2)) in place of tau / h. Minibatches add the noise of their gradients.
    For a mean loss over n examples, tau = 1 / n is the temperature of a Bayesian posterior.

    With its random numbers fixed, a chain is a differentiable path: method=reverse, forward,
    truncated and fg2u give the derivative of F at its end. method=score gives that of the mean of F
    over the law p, by first derivatives.

    Args:
        lr: Step size on f.
        tau: Temperature, >= 0, in the unit of f.
    """

    lr: float | Learned
    tau: float

    def __post_init__(self) -> None:
        check_lr("Langevin", self.lr)
        if not 0 <= self.tau < math.inf:
            raise ValueError(
                f"Langevin needs a finite temperature tau >= 0, got tau={self.tau}. "
                "Set solver.tau, e.g. 0.001; 0 is gradient descent."
            )

    @cached_property
    def takes_draws(self) -> bool:
        return self.tau > 0

    def draw(self, inner: Params, num_steps: int, generator: torch.Generator) -> Params:
        if not self.takes_draws:
            return {}
        return {
            name: draws.normal(
                num_steps, *value.shape, generator=generator, drawn_in=torch.float64
            ).to(value)
            for name, value in inner.items()
        }

    @property
    def temperature(self) -> float | None:
        return self.tau or None

    @property
    def no_minimiser(self) -> str:
        if not self.takes_draws:
            return ""
        return "Langevin steps, which sample around minimisers and come to rest at none"

    def init(self, inner: Params) -> SolverState:
        return {"inner": inner}

    def step(self, oracle: Oracle, state: SolverState) -> SolverState:
        z, lr = state["inner"], value(self.lr, oracle.outer)
        moved = trees.axpy(-lr, oracle.inner_grad(z), z)
        if not self.takes_draws:
            return {"inner": moved}
        if not oracle.draws:
            raise ValueError(
                "Langevin needs the random numbers of its steps, got data without any. Draw them "
                "by data = loop.drawn(outer, data, generator)."
            )
        return {"inner": trees.axpy((2 * self.tau * lr) ** 0.5, oracle.draws, moved)}
