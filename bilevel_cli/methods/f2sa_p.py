"""Fully first-order, by finite differences of any order."""

from dataclasses import dataclass

from bilevel_cli.core.growth import Part, Parts, Sizes
from bilevel_cli.methods.parts.nudged import Nudged


@dataclass(frozen=True)
class F2saP(Nudged):
    """F2SA-p (Chen et al., 2025, arXiv:2509.02937): a difference of order p of penalty problems.

    F2SA sees the hypergradient as a forward difference. Of the minimisers z_c of f + c b F at the
    nodes c = 0, +-1, +-2, ..., higher differences are more exact:

        sum_c w_c d_lambda [f + c b F](z_c, lambda) / b,    all z constant,

    with the weights w_c of the difference of order p. An even p takes the nodes +-1 to +-p/2, an
    odd one p + 1 nodes from -(p - 1)/2 to (p + 1)/2, as the released code. At solved problems it
    misses the hypergradient by O(b^p), where f is strongly convex and both losses are smooth
    enough. With p = 2 it is exact for a quadratic f and an F that is linear in z. So a higher order
    bears a larger b, at which noise and rounding weigh less.

    All nodes are solved from z_K: the inner loop runs on f alone, and each node goes on from there
    for `nudged_steps` on its own loss, on the same minibatches. The paper has them start where they
    ended, and normalises the outer step, which here is the optimizer's. The largest node times b
    must be smaller than the ratio of the curvatures of f and F: beyond, f - c b F has no minimiser.
    The start is not differentiated: its outer parameters are refused.

    Reports the residual of the adjoint that the difference stands for, relative to d_z F.

    Cost: K + nodes * (nudged_steps + 1) inner gradients, and no second derivative.

    Args:
        nudge: b, > 0, in units of f by units of F. F2SA's multiplier is 1 / b.
        nudged_steps: Inner steps of each node from z_K, >= 1, on the last of the inner minibatches.
            Where these are fewer, they are gone through again.
        warm_nudged: Begin each node as far from z_K as the last outer step ended, not at z_K.
        order: p, >= 1. The released code has 1, 2, 3, 5, 8 and 10.
    """

    order: int

    def __post_init__(self) -> None:
        if self.order < 1:
            raise ValueError(
                f"F2saP needs order >= 1, got order={self.order}. Set method.order, e.g. 2."
            )
        super().__post_init__()

    def holds(self, sizes: Sizes) -> Parts:
        count = len(self.nodes())
        if not self.warm_nudged or count == 2:  # two states, as every penalty method
            return ()
        what = f"the solutions of {count} nudged problems, before and after a step"
        return (Part(what, 2 * count * sizes.inner, ("method.order",)),)

    @property
    def exactness(self) -> int:
        return self.order
