"""L-BFGS, for inner problems that are solved to the end."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bilevel_cli.core import trees
from bilevel_cli.core.oracle import Oracle
from bilevel_cli.core.solver import InnerSolver, SolverState, check_lr, counter
from bilevel_cli.core.trees import Params

LEAST = 1e-10  # s.y below which a pair tells no curvature, as in torch.optim.LBFGS


class LbfgsState(SolverState):
    moves: Tensor  # s, [memory, n], the newest last; n entries of z as one vector
    changes: Tensor  # y, likewise: what the gradient changed by in each move
    curvatures: Tensor  # s.y of each pair, [memory]; 0 for none
    scale: Tensor  # the inverse Hessian before all pairs is this multiple of the identity, 0-dim
    before: Tensor  # z before the last step, [n]
    slope: Tensor  # the gradient there, [n]
    count: Tensor  # steps taken, 0-dim


@dataclass(frozen=True)
class Lbfgs(InnerSolver[LbfgsState]):
    """z_{t+1} = z_t - lr * B_t grad f(z_t), B_t the inverse Hessian as the last moves tell it.

    Limited-memory BFGS (Nocedal, 1980; Liu & Nocedal, 1989) by the two-loop recursion, with the
    steps of torch.optim.LBFGS without a line search: the first one is of length lr at most, and a
    move s with the change y of the gradient is remembered where s.y > 1e-10. No step asks for a
    value of f, so nothing bounds the steps where f is not convex. On minibatches y is noise:
    give whole batches.

    Implicit methods differentiate where it ends, and need nothing of its steps. Methods that unroll
    differentiate them exactly, the remembered pairs too.

    Args:
        lr: Step size; 1 is Newton's step as far as B_t is the inverse Hessian.
        memory: Remembered pairs, >= 1.
    """

    lr: float
    memory: int

    def __post_init__(self) -> None:
        check_lr("Lbfgs", self.lr)
        if self.memory < 1:
            raise ValueError(
                f"Lbfgs needs memory >= 1 pairs, got memory={self.memory}. Use solver=gd for none."
            )

    def init(self, inner: Params) -> LbfgsState:
        zero = torch.zeros_like(trees.ravel(inner)[0])
        none = zero.new_zeros(self.memory, len(zero))
        return {
            "inner": inner,
            "moves": none,
            "changes": none,
            "curvatures": none[:, 0],
            "scale": counter(inner, 1.0),
            "before": zero,
            "slope": zero,
            "count": counter(inner, 0.0),
        }

    def step(self, oracle: Oracle, state: LbfgsState) -> LbfgsState:
        z, unravel = trees.ravel(state["inner"])
        gradient = trees.ravel(oracle.inner_grad(state["inner"]))[0]
        first = state["count"] == 0
        move, change = z - state["before"], gradient - state["slope"]
        curvature = move @ change
        kept = (curvature > LEAST) & ~first

        def newest(pairs: Tensor, pair: Tensor) -> Tensor:
            return torch.where(kept, torch.cat([pairs[1:], pair[None]]), pairs)

        moves, changes = newest(state["moves"], move), newest(state["changes"], change)
        curvatures = newest(state["curvatures"], curvature)
        square = change @ change
        scale = torch.where(kept, curvature / torch.where(square > 0, square, 1.0), state["scale"])
        direction = _newton(gradient, moves, changes, curvatures, scale)
        length = gradient.abs().sum()
        shortened = torch.where(first & (length > 1), 1 / torch.where(length > 1, length, 1.0), 1.0)
        return {
            "inner": unravel(z - self.lr * shortened * direction),
            "moves": moves,
            "changes": changes,
            "curvatures": curvatures,
            "scale": scale,
            "before": z,
            "slope": gradient,
            "count": state["count"] + 1,
        }


def _newton(
    gradient: Tensor, moves: Tensor, changes: Tensor, curvatures: Tensor, scale: Tensor
) -> Tensor:
    """B g by the two-loop recursion; arguments as in `LbfgsState`."""
    told = curvatures > 0
    weights = torch.where(told, 1 / torch.where(told, curvatures, 1.0), 0.0)
    found, shares = gradient, []
    for number in reversed(range(len(moves))):
        shares.append(weights[number] * (moves[number] @ found))
        found = found - shares[-1] * changes[number]
    found = scale * found
    for number, share in enumerate(reversed(shares)):
        back = weights[number] * (changes[number] @ found)
        found = found + (share - back) * moves[number]
    return found
