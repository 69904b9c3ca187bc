"""A learned optimizer: one small rule for every entry, whose numbers are outer parameters."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bilevel_cli.core import trees
from bilevel_cli.core.oracle import Oracle
from bilevel_cli.core.solver import InnerSolver, SolverState, check_lr, counter
from bilevel_cli.core.trees import Params

PREFIX = "rule."


class LearnedRuleState(SolverState):
    means: Params  # of gradients, one for each decay: [decays, ...] in front of the shapes of z
    square: Params  # the mean of their squares, in the shapes of `inner`
    count: Tensor  # steps taken, 0-dim


@dataclass(frozen=True)
class LearnedRule(InnerSolver[LearnedRuleState]):
    """z_{t+1} = z_t - (1 + t)^-fall * sum_j (plain_j m_j + normalised_j c_j m_j / r), by entries.

        m_j  the mean of gradients with decay_j, begun at zero; the gradient itself is one more
        r    sqrt(s + eps^2), where s is the mean of squared gradients with square_decay, corrected
        c_j  1 / (1 - decay_j^(t + 1)), which corrects m_j

    One rule serves all entries of z, whatever their number, so that a rule learned on small
    problems can be used on others. plain, normalised and fall are the outer parameters: two numbers
    for the gradient and for each decay, and one more. Gradient descent, momentum, RMSProp and Adam
    with a step size that falls are such rules. It has the most telling inputs of the learned
    optimizer of Metz et al. (2019, arXiv:1810.10180), whose rule is a small network. Before it is
    learned, it is gradient descent.

    Where it comes to rest does not depend on the rule: methods that differentiate a solution refuse
    it.

    Args:
        lr: The weight of the gradient before the first outer step, > 0; all others are zero.
        decays: Of the means of gradients, each in (0, 1).
        square_decay: Of the mean of squared gradients, in [0, 1).
        eps: What keeps r from zero, > 0, in the unit of a gradient.
    """

    lr: float
    decays: Sequence[float]
    square_decay: float
    eps: float

    def __post_init__(self) -> None:
        check_lr("LearnedRule", self.lr)
        if not (self.decays and all(0 < decay < 1 for decay in self.decays)):
            raise ValueError(
                f"LearnedRule needs decays in (0, 1), one or more, got decays={list(self.decays)}. "
                "The gradient itself, of decay 0, is always there."
            )
        if not 0 <= self.square_decay < 1:
            raise ValueError(
                f"LearnedRule needs square_decay in [0, 1), got square_decay={self.square_decay}."
            )
        if not 0 < self.eps < math.inf:
            raise ValueError(f"LearnedRule needs a finite eps > 0, got eps={self.eps}. Try 1e-3.")
        object.__setattr__(self, "decays", tuple(self.decays))  # a solver can be hashed

    def init(self, inner: Params) -> LearnedRuleState:
        several = len(self.decays)
        return {
            "inner": inner,
            "means": {n: value.new_zeros(several, *value.shape) for n, value in inner.items()},
            "square": trees.zeros_like(inner),
            "count": counter(inner, 0.0),
        }

    def step(self, oracle: Oracle, state: LearnedRuleState) -> LearnedRuleState:
        grad, count = oracle.inner_grad(state["inner"]), state["count"] + 1
        rule = trees.under(PREFIX, oracle.outer)
        decays = self._decays(count)
        corrections = torch.cat([torch.ones_like(count)[None], 1 / (1 - decays**count)])
        of_squares = 1 - self.square_decay**count
        fall = torch.exp(-rule["fall"] * count.log())
        inner, means, square = {}, {}, {}
        for name, z in state["inner"].items():
            g = grad[name]
            wide = decays.reshape(-1, *[1] * g.dim())
            means[name] = wide * state["means"][name] + (1 - wide) * g
            square[name] = (
                self.square_decay * state["square"][name] + (1 - self.square_decay) * g**2
            )
            root = (square[name] / of_squares + self.eps**2).sqrt()
            every = torch.cat([g[None], means[name]])
            plain = torch.tensordot(rule["plain"], every, dims=1)
            normalised = torch.tensordot(rule["normalised"] * corrections, every, dims=1)
            inner[name] = z - fall * (plain + normalised / root)
        return {"inner": inner, "means": means, "square": square, "count": count}

    def outer_init(self, inner: Params) -> Params:
        one = counter(inner, 0.0)
        plain = one.new_zeros(1 + len(self.decays))
        plain[0] = self.lr
        rule = {"plain": plain, "normalised": torch.zeros_like(plain), "fall": one}
        return trees.prefixed(PREFIX, rule)

    def settings(self, outer: Params) -> Params:
        rule = trees.under(PREFIX, outer)
        found = {"fall": rule["fall"]}
        for kind in ("plain", "normalised"):
            names = ["gradient", *(f"decay_{decay:g}" for decay in self.decays)]
            found |= {f"{kind}.{n}": weight for n, weight in zip(names, rule[kind], strict=True)}
        return found

    def _decays(self, count: Tensor) -> Tensor:
        # Filled on the device: a copy from the host would be waited for.
        return torch.stack([torch.full_like(count, decay) for decay in self.decays])
