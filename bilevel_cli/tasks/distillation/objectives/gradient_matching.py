"""Gradients of the training loss on learned and on real images."""

import torch
from torch import Tensor

from bilevel_cli.core import autodiff
from bilevel_cli.core.problem import Batch
from bilevel_cli.core.trees import Params
from bilevel_cli.nn.functional import Functional
from bilevel_cli.nn.losses import cross_entropy
from bilevel_cli.tasks.distillation.objectives.base import Objective


class GradientMatching(Objective):
    """F = sum over classes and layers of D(grad CE(learned), grad CE(real)) (DC, Zhao et al., 2021,
    arXiv:2006.05929; with an augmentation DSA, arXiv:2102.08259).

    D sums 1 - cosine over the rows of a layer's weights, one for each output unit; biases and the
    parameters of normalisation do not count, as in the authors' code. Made for method=direct and
    start=pool: an outer step then costs a second derivative of one pass for each class.
    """

    def __call__(
        self, model: Functional, params: Params, learned: Batch, real: Batch, target: Params
    ) -> Tensor:
        def loss(params: Params, x: Tensor, y: Tensor) -> Tensor:
            return cross_entropy(model.apply(params, x), y)

        slope = autodiff.grad(loss)
        misses = [
            distance(slope(params, *ours), slope(params, *theirs))
            for ours, theirs in zip(_classes(learned), _classes(real), strict=True)
        ]
        return torch.stack(misses).sum()


def distance(left: Params, right: Params) -> Tensor:
    """The sum of 1 - cosine over the rows of all weights of two or more dimensions."""
    rows = [(x.flatten(1), right[name].flatten(1)) for name, x in left.items() if x.ndim > 1]
    return torch.stack([(1 - cosine(*pair)).sum() for pair in rows]).sum()


def cosine(x: Tensor, y: Tensor) -> Tensor:
    """Of rows; 0 for a row of zeros."""
    # The slope of a norm at zero is not a number, and a unit that is dead for a batch is there.
    return (x * y).sum(1) / ((x * x).sum(1) * (y * y).sum(1) + 1e-12).sqrt()


def _classes(batch: Batch) -> list[tuple[Tensor, Tensor]]:
    return list(zip(batch["x"], batch["y"], strict=True))
