"""Data reweighting with weights that depend on the classifier."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from bilevel_cli.core import autodiff, constants, trees
from bilevel_cli.core.blocks import mean
from bilevel_cli.core.problem import Batch
from bilevel_cli.core.trees import Params
from bilevel_cli.data.base import Examples, Splits
from bilevel_cli.tasks.reweighting.base import Reweighting
from bilevel_cli.tasks.reweighting.noise import Corruption


class DependentWeights(Reweighting):
    """A classifier whose examples have weights w_i(z, lambda). The inner solver follows

        g(z, lambda) = mean_i w_i(z, lambda) grad CE_i(z) + 2 l2 z

    in place of a gradient: as the published algorithms do, it weighs the gradients of the examples,
    and does not lower a loss by changing its weights. g is the gradient of no loss, since

        dg/dz = mean_i [w_i Hess CE_i + grad CE_i (dw_i/dz)^T] + 2 l2 I

    is not symmetric. Penalty and value-function methods have no loss to compare, and conjugate
    gradient no symmetric matrix: they refuse. Methods that differentiate the inner steps serve, and
    so do implicit methods that solve with the transpose of dg/dz. They find dw_i/dz for themselves.

    If `detached`, dw_i/dz counts as zero in every derivative, as in the published code. This makes
    no difference for one inner step from a constant start, and is an approximation for more steps.
    What methods claim of their derivatives then holds for an inner loop whose weights do not follow
    z.

    The inner loss, mean_i w_i CE_i(z) + l2 |z|^2 with constant w_i, is a number to look at. Its
    gradient is g.

    Args:
        detached: Whether derivatives take the weights for constants of z.
        others: As `Reweighting`.
    """

    def __init__(
        self,
        detached: bool,
        noise: Corruption,
        batch_size: int | None,
        outer_batch_size: int | None,
        l2: float,
        parts: Splits,
        data: Examples,
        model: Callable[..., nn.Module],
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        super().__init__(
            *(noise, batch_size, outer_batch_size, l2, parts, data, model, device, generator)
        )
        self.detached = detached
        self.constants = "the weights" if detached else ""

    def inner_field(self, inner: Params, outer: Params, batch: Batch) -> Params:
        losses, pullback = autodiff.vjp(partial(self.losses, batch=batch), inner, once=True)
        weights = self.batch_weights(inner, outer, losses, batch)

        def weighted(losses: Tensor) -> Tensor:
            return mean(weights * losses, batch)

        found: Params = pullback(autodiff.grad(weighted)(losses))[0]
        return trees.axpy(2 * self.l2, inner, found) if self.l2 else found

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        losses = self.losses(inner, batch)
        z = {name: value.detach() for name, value in inner.items()}
        weights = self.batch_weights(z, outer, losses.detach(), batch)
        loss = mean(weights * losses, batch)
        return loss + self.l2 * trees.dot(inner, inner) if self.l2 else loss

    def variable(self, x: Tensor) -> Tensor:
        """`x`, which depends on z, or a constant of the same value where weights are detached."""
        return constants.held(x) if self.detached else x
