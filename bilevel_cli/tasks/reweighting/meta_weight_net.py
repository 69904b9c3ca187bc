"""Meta-Weight-Net: a network from the loss of an example to its weight."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bilevel_cli.core import trees
from bilevel_cli.core.blocks import mean
from bilevel_cli.core.problem import Batch
from bilevel_cli.core.trees import Params
from bilevel_cli.data.base import Examples
from bilevel_cli.models import Mlp
from bilevel_cli.nn.building import build
from bilevel_cli.tasks.reweighting.dependent_weights import DependentWeights
from bilevel_cli.tasks.reweighting.noise import Corruption

PREFIX = "weight_net."


class MetaWeightNet(DependentWeights):
    """Meta-Weight-Net (Shu et al., 2019, arXiv:1902.07379).

        g(z, lambda) = mean_i W_lambda(CE_i(z)) grad CE_i(z) + 2 l2 z   on training examples
        F(z)         = mean_i CE_i(z)                        on clean validation examples

    with W an MLP of one hidden layer and a sigmoid. Inner steps follow g (`DependentWeights`), and
    the hypergradient sees that W's argument moves with z. One inner step with `start=warm`, and the
    derivative through it, are the paper's algorithm with one difference. There the classifier takes
    each step twice: once to learn W, and again with the new W. Here the new W serves the next step.

    Scores: as `Reweighting`. W may be small everywhere. So the examples of at least half the mean
    weight are called clean.

    Args:
        width: Units of the hidden layer.
        normalize: Whether the weights of a minibatch are divided by their mean. Otherwise W is
            drawn to 1 wherever larger steps lower F.
        detached: Whether derivatives take the argument of W for a constant of z, as the released
            code does. The same for one inner step from a cold or a warm start.
        noise: What is done to the training examples.
        batch_size: Training examples of an inner step; null for all of them.
        outer_batch_size: Validation examples of an outer step; null for all of them.
        l2: Weight of the squared norm of the inner parameters, >= 0. Not halved.
        data: Labelled examples.
        model: The classifier, as conf/model builds it.
        device: Where the examples live.
        generator: Draws the split, the noise and the start of the classifier.
    """

    def __init__(
        self,
        width: int,
        normalize: bool,
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
        if width < 1:
            raise ValueError(f"MetaWeightNet needs width >= 1, got width={width}. Set task.width.")
        parts = data.splits(generator)
        super().__init__(
            *(detached, noise, batch_size, outer_batch_size, l2),
            *(parts, data, model, device, generator),
        )

        def net(input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
            return Mlp(width, 1, "relu", input_shape, num_outputs)

        self.normalize = normalize
        self.net = build(net, (1,), 1, device)

    def init_outer(self, generator: torch.Generator) -> Params:
        return trees.prefixed(PREFIX, self.net.init(generator))

    def batch_weights(self, inner: Params, outer: Params, losses: Tensor, batch: Batch) -> Tensor:
        weights = self.weights_of(self.variable(losses), outer)
        if not self.normalize:
            return weights
        return weights / mean(weights, batch).clamp(min=torch.finfo(weights.dtype).tiny)

    def weights_of(self, losses: Tensor, outer: Params) -> Tensor:
        """W, loss by loss."""
        return self.net.apply(trees.under(PREFIX, outer), losses[:, None])[:, 0].sigmoid()

    def example_weights(self, outer: Params, inner: Params) -> Tensor:
        losses = torch.cat([self.losses(inner, batch) for batch in self.train_chunks()])
        return self.weights_of(losses, outer)
