"""Parameters after training on learned images, and after training on real ones."""

import torch
from torch import Tensor

from bilevel_cli.core import trees
from bilevel_cli.core.problem import Batch
from bilevel_cli.core.trees import Params
from bilevel_cli.nn.functional import Functional
from bilevel_cli.tasks.distillation.objectives.base import Objective


class TrajectoryMatching(Objective):
    """F = |z_K - target|^2 / |z_0 - target|^2 (MTT, Cazenavette et al., 2022, arXiv:2203.11932).

    z_0 is an expert in the midst of its training on real images, target the same expert some epochs
    later. With method=reverse MTT; with method=tesla its form in constant memory (Cui et al., 2023,
    arXiv:2211.10586); with solver=gd_learned_lr the step size is learned too.
    """

    needs_target = True

    def __call__(
        self, model: Functional, params: Params, learned: Batch, real: Batch, target: Params
    ) -> Tensor:
        end = trees.under("target.", target)

        def miss(z: Params) -> Tensor:
            return torch.stack([(z[n] - value).square().sum() for n, value in end.items()]).sum()

        return miss(params) / miss(trees.under("origin.", target))
