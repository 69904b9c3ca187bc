"""The error on real images of ridge regression on learned ones."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bilevel_cli.core import dense
from bilevel_cli.core.problem import Batch
from bilevel_cli.core.trees import Params
from bilevel_cli.nn.functional import Functional
from bilevel_cli.tasks.distillation.objectives.base import Objective


@dataclass(frozen=True)
class KernelRidge(Objective):
    """F = 1/2 mean |y_t - K_ts (K_ss + penalty * mean(diag K_ss) * I)^-1 y_s|^2, with K the inner
    products of the features that the network's last layer is given.

    The solution for the last layer in closed form, and so its exact implicit derivative. On the
    features of networks trained meanwhile on the learned images it is FRePo (Zhou et al., 2022,
    arXiv:2206.00719): method=direct, start=pool. On those of fresh ones, start=cold, it is near to
    KIP (Nguyen et al., 2021, arXiv:2011.00050) with a finite network for the infinite one.

    Labels are centred at 1 / classes. Costs a solve with a matrix of the size of the learned set.

    Args:
        penalty: Weight of the ridge, relative to the mean squared norm of the features, so that it
            means the same for networks of all widths.
    """

    penalty: float

    needs_classes = False

    def __post_init__(self) -> None:
        check_penalty("KernelRidge", self.penalty, "task.objective.penalty, e.g. 1e-6")

    def __call__(
        self, model: Functional, params: Params, learned: Batch, real: Batch, target: Params
    ) -> Tensor:
        ours, theirs = (
            (model.features(params, batch["x"].flatten(0, 1)), batch["y"].flatten(0, 1))
            for batch in (learned, real)
        )
        return ridge_error(*ours, *theirs, self.penalty)


def check_penalty(who: str, penalty: float, setting: str) -> None:
    """Refuses a penalty with which a kernel of too few examples could not be inverted."""
    if not 0 < penalty < math.inf:
        raise ValueError(f"{who} needs a finite penalty > 0, got penalty={penalty}. Set {setting}.")


def ridge_error(x_s: Tensor, y_s: Tensor, x_t: Tensor, y_t: Tensor, penalty: float) -> Tensor:
    """`ridge_loss` of features and labels, with a relative penalty and labels that are centred.

    Args: as `ridge_loss`; y_s and y_t are of shape [., classes], and the penalty is relative to the
        mean squared norm of x_s.
    """
    shift = 1 / y_s.shape[1]
    weight = penalty * x_s.square().sum(1).mean()
    return ridge_loss(x_s, y_s - shift, x_t, y_t - shift, weight)


def ridge_loss(x_s: Tensor, y_s: Tensor, x_t: Tensor, y_t: Tensor, penalty: Tensor) -> Tensor:
    """1/2 mean |y_t - K_ts (K_ss + penalty * I)^-1 y_s|^2 for the linear kernel.

    Args:
        x_s: Examples to learn from, of shape [s, features].
        y_s: Their targets, of shape [s, outputs].
        x_t: Examples to predict, of shape [t, features].
        y_t: Their targets, of shape [t, outputs].
        penalty: Weight of the ridge, 0-dim.
    """
    # float64 here only: rounding in float32 makes K_ss indefinite by more than a small penalty.
    wide_s, wide_t = x_s.double(), x_t.double()
    kernel = wide_s @ wide_s.mT
    ridge = penalty.double() * torch.eye(len(kernel), dtype=torch.float64, device=kernel.device)
    weights = wide_s.mT @ dense.solve(kernel + ridge, y_s.double())
    error = y_t.double() - wide_t @ weights
    return (0.5 * error.square().sum(1).mean()).to(x_s.dtype)
