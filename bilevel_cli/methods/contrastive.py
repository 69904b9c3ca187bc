"""Equilibrium propagation: the contrast of two solutions of the inner problem."""

from dataclasses import dataclass

from bilevel_cli.methods.parts.nudged import Nudged


@dataclass(frozen=True)
class Contrastive(Nudged):
    """Equilibrium propagation (Scellier & Bengio, 2017, arXiv:1602.05179), in the terms of bilevel
    optimization (Zucchet & Sacramento, 2022, arXiv:2205.03076).

    Runs the inner loop on f to z_K. From there it steps on f + b F to z_b, and returns

        (d_lambda [f + b F](z_b, lambda) - d_lambda f(z_0, lambda)) / b,    both z constant,

    where z_0 has taken as many steps on f alone: what is left of the way then cancels. The
    symmetric contrast is that of f + b F and f - b F, divided by 2 b. At solved problems it misses
    the hypergradient by O(b^2), the one-sided contrast by O(b), where f is strongly convex. Near a
    solution, gradient descent for `nudged_steps` is Neumann's series of as many terms.

    b must be smaller than the ratio of the curvatures of f and F: beyond, f - b F has no minimiser.
    A small one costs digits, since the rounding of a gradient is divided by it. The start is not
    differentiated: its outer parameters are refused.

    Reports the residual of the adjoint (z_0 - z_b) / b that the contrast stands for, relative to
    d_z F.

    Cost: K + 2 (nudged_steps + 1) inner gradients, and no second derivative.

    Args:
        nudge: b, > 0, in units of f by units of F.
        nudged_steps: Inner steps from z_K to each of the two, >= 1, on the last of the inner
            minibatches. Where these are fewer, they are gone through again.
        warm_nudged: Begin them as far from z_K as the last outer step ended, not at z_K.
        symmetric: The contrast of +b and -b, not of b and 0.
    """

    symmetric: bool

    @property
    def exactness(self) -> int:
        return 2 if self.symmetric else 1
