"""Parameters after training on learned images, and after training on real ones."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from bilevel_cli.core import trees
from bilevel_cli.core.problem import Batch
from bilevel_cli.core.trees import Params
from bilevel_cli.nn.functional import Functional
from bilevel_cli.tasks.distillation.objectives.base import Objective

IMPORTANCE = "importance."


@dataclass(frozen=True)
class Importance:
    """Weights of the layers in the distance, learned with the images (IADD, Li et al., 2024,
    arXiv:2401.15863).

        a_j = floor / L + (1 - floor) softmax(importance)_j      of L layers; they sum to one

    The same hypergradient that changes the images changes them, and by itself it moves all weight
    to the layer that is matched best, where there is least to learn. So no weight falls below
    floor / L. The text of the paper was not at hand: the softmax and the floor are ours.

    Args:
        floor: In (0, 1]; 1 for equal weights that do not change.
    """

    floor: float

    def __post_init__(self) -> None:
        if not 0 < self.floor <= 1:
            raise ValueError(
                f"Importance needs a floor in (0, 1], got floor={self.floor}. Without one, all "
                "weight goes to the layer that is matched best."
            )

    def weights(self, logits: Tensor) -> Tensor:
        """The weights of the layers, of shape [layers]."""
        return self.floor / len(logits) + (1 - self.floor) * logits.softmax(0)


@dataclass(frozen=True)
class TrajectoryMatching(Objective):
    """F = |z_K - target|^2 / |z_0 - target|^2 (MTT, Cazenavette et al., 2022, arXiv:2203.11932).

    z_0 is an expert in the midst of its training on real images, target the same expert some epochs
    later. With method=reverse MTT; with method=tesla its form in constant memory (Cui et al., 2023,
    arXiv:2211.10586); with solver=gd_learned_lr the step size is learned too.

    With an importance, F = sum over layers j of a_j |z_K,j - target_j|^2 / |z_0,j - target_j|^2;
    a_j = |z_0,j - target_j|^2 / |z_0 - target|^2 would give the quotient of all parameters.

    Args:
        importance: Learned weights of the layers; null for the quotient of all parameters.
    """

    importance: Importance | None

    needs_target = True
    takes_real = False

    def begin(self, model: Functional) -> Params:
        if self.importance is None:
            return {}
        like = dict(model.named_parameters())
        zero = torch.zeros_like(next(iter(like.values())).flatten()[0])
        return {IMPORTANCE + name: zero.clone() for name in _layers(like)}

    def __call__(
        self, model: Functional, params: Params, learned: Batch, real: Batch, target: Params
    ) -> Tensor:
        end, origin = trees.under("target.", target), trees.under("origin.", target)
        if self.importance is None:
            return distance2(params, end, end) / distance2(origin, end, end)
        layers = _layers(end)
        shares = [_share(params, origin, end, names) for names in layers.values()]
        logits = torch.stack([learned[IMPORTANCE + name] for name in layers])
        return (self.importance.weights(logits) * torch.stack(shares)).sum()


def _share(z: Params, origin: Params, end: Params, names: list[str]) -> Tensor:
    """|z_j - end_j|^2 / |origin_j - end_j|^2 of a layer; 0 of one that the expert left alone."""
    travelled = distance2(origin, end, names)
    moved = travelled > 0
    return torch.where(moved, distance2(z, end, names) / torch.where(moved, travelled, 1.0), 0.0)


def _layers(names: Iterable[str]) -> dict[str, list[str]]:
    """The names of the parameters of each layer, which is a name without its last part."""
    layers: dict[str, list[str]] = {}
    for name in names:
        layers.setdefault(name.rpartition(".")[0] or name, []).append(name)
    return layers


def distance2(z: Params, target: Params, names: Iterable[str]) -> Tensor:
    """|z - target|^2 over the parameters of these names, 0-dim."""
    return torch.stack([(z[name] - target[name]).square().sum() for name in names]).sum()
