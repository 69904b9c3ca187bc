"""Learning to reweight: weights of a minibatch from how its gradients agree with clean ones."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.blocks import mean
from bilevel_cli.core.problem import Batch, StepData
from bilevel_cli.core.random import META
from bilevel_cli.core.trees import Params
from bilevel_cli.data.base import Examples
from bilevel_cli.tasks.reweighting.dependent_weights import DependentWeights
from bilevel_cli.tasks.reweighting.noise import Corruption

META_PREFIX = "meta_"


class LearningToReweight(DependentWeights):
    """Learning to reweight examples (Ren et al., 2018, arXiv:1803.09050).

        g(z, lambda) = mean_i (w_i(z) + lambda_i) grad CE_i(z) + 2 l2 z   on a minibatch
        w_i(z)       = max(a_i, 0) / mean_j max(a_j, 0),   a_i = <grad F_meta(z), grad CE_i(z)>
        F(z)         = mean_i CE_i(z)                        on clean validation examples

    F_meta is the loss of a minibatch of clean validation examples. Take one step of gradient
    descent from weights of 0: up to the step size, a_i is minus the derivative of F_meta after it
    in w_i. Inner steps follow g (`DependentWeights`), and the hypergradient sees that w moves with
    z. lambda begins at 0, so that `method=none start=warm` is the paper's algorithm; other methods
    learn corrections that last.

    Scores: as `Reweighting`, with the weights at the last inner iterate, where all training
    examples are one minibatch, and all validation examples another.

    An inner step costs two more gradients, and two products with second derivatives. Where inner
    steps are differentiated it needs third derivatives too, unless `detached`.

    Args:
        detached: Whether derivatives take w for a constant of z. The same for one inner step from a
            cold or a warm start.
        noise: What is done to the training examples.
        batch_size: Training examples of an inner step; null for all of them.
        outer_batch_size: Validation examples of an outer step and of F_meta; null for all of them.
        l2: Weight of the squared norm of the inner parameters, >= 0. Not halved.
        data: Labelled examples.
        model: The classifier, as conf/model builds it.
        device: Where the examples live.
        generator: Draws the split, the noise and the start of the classifier.
    """

    def __init__(
        self,
        detached: bool,
        noise: Corruption,
        batch_size: int | None,
        outer_batch_size: int | None,
        l2: float,
        data: Examples,
        model: Callable[..., nn.Module],
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        parts = data.splits(generator)
        super().__init__(
            *(detached, noise, batch_size, outer_batch_size, l2),
            *(parts, data, model, device, generator),
        )

    def init_outer(self, generator: torch.Generator) -> Params:
        return {"weights": torch.zeros_like(self.train.y, dtype=torch.get_default_dtype())}

    def sample(self, num_steps: int, generator: torch.Generator) -> StepData:
        data = super().sample(num_steps, generator)
        meta = self.outer_blocks.draw(META, num_steps, generator)
        return data._replace(inner=data.inner | trees.prefixed(META_PREFIX, meta))

    def whole(self) -> dict[str, Batch]:
        return {}  # each of its minibatches is two, which are drawn apart

    def batch_weights(self, inner: Params, outer: Params, losses: Tensor, batch: Batch) -> Tensor:
        clean = autodiff.grad(self.outer_loss)(inner, outer, trees.under(META_PREFIX, batch))
        agreement = alignments(partial(self.losses, batch=batch), clean, inner)
        weights = self._normalised(self.variable(agreement), batch)
        return weights + outer["weights"][batch["index"]]

    def example_weights(self, outer: Params, inner: Params) -> Tensor:
        whole = {"x": self.validation.x, "y": self.validation.y}
        clean = autodiff.grad(self.outer_loss)(inner, outer, whole)
        parts = [
            alignments(partial(self.losses, batch=batch), clean, inner).detach()
            for batch in self.train_chunks()
        ]
        return self._normalised(torch.cat(parts), {}) + outer["weights"]

    def _normalised(self, agreement: Tensor, batch: Batch) -> Tensor:
        positive = agreement.relu()  # whose derivative at 0 is 0: no weight, no influence
        return positive / mean(positive, batch).clamp(min=torch.finfo(positive.dtype).tiny)


def alignments(losses: Callable[[Params], Tensor], direction: Params, at: Params) -> Tensor:
    """<direction, grad losses_i(at)> for each i, of shape [n], by two gradients in all.

    Args:
        losses: Of all examples, of shape [n].
        direction: Of the shapes of `at`.
        at: Where the gradients are taken.
    """

    def slope(weights: Tensor) -> Tensor:
        gradient = autodiff.grad(lambda z: (weights * losses(z)).sum())(at)
        return trees.dot(direction, gradient)

    # The slope is linear in the weights, so its gradient is the same at all of them.
    return autodiff.grad(slope)(torch.zeros_like(losses(at)))
