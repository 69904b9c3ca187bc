"""Real examples that stand for their class, which a distilled set of the same size must beat."""

import abc
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


class Selection(abc.ABC):
    """Picks `per_class` examples of each class, each class by itself."""

    def select(
        self, features: Tensor, labels: Tensor, per_class: int, generator: torch.Generator
    ) -> Tensor:
        """The rows of the chosen examples, class after class, of shape [classes * per_class].

        Args:
            features: Of shape [n, ...]: pixels, or what a network makes of them.
            labels: From 0 to classes - 1, of shape [n].
            per_class: Examples of each class.
            generator: On the CPU.
        """
        counts = labels.bincount()
        if not 1 <= per_class <= counts.min():
            raise ValueError(
                f"{type(self).__name__} needs per_class from 1 to {int(counts.min())}, as many as "
                f"the rarest class has, got per_class={per_class}. Raise data.train."
            )
        chosen = []
        for label in range(len(counts)):
            rows = (labels == label).nonzero()[:, 0]
            chosen.append(rows[self.pick(features[rows].flatten(1), per_class, generator)])
        return torch.cat(chosen)

    @abc.abstractmethod
    def pick(self, features: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """The rows of `count` examples of one class, of features [n, d]."""


@dataclass(frozen=True)
class RandomReal(Selection):
    """Drawn without replacement, all equally likely."""

    def pick(self, features: Tensor, count: int, generator: torch.Generator) -> Tensor:
        return torch.randperm(len(features), generator=generator)[:count].to(features.device)


@dataclass(frozen=True)
class Herding(Selection):
    """The examples whose mean is nearest to that of their class (Welling, 2009).

        x_k = argmin_x | mean(class) - (x_1 + ... + x_{k-1} + x) / k |

    without replacement, as iCaRL keeps examples (Rebuffi et al., 2017, arXiv:1611.07725); there
    features have norm 1, here they are as given. Deterministic.
    """

    def pick(self, features: Tensor, count: int, generator: torch.Generator) -> Tensor:
        del generator
        mean, total = features.mean(0), torch.zeros_like(features[0])
        chosen: list[Tensor] = []
        taken = torch.zeros(len(features), dtype=torch.bool, device=features.device)
        for k in range(1, count + 1):
            distance = (mean - (total + features) / k).square().sum(1)
            best = torch.where(taken, torch.inf, distance).argmin()
            total, taken[best] = total + features[best], True
            chosen.append(best)
        return torch.stack(chosen)


@dataclass(frozen=True)
class KCentre(Selection):
    """Centres that leave no example of the class far away (Sener & Savarese, 2018).

    The first is nearest to the mean; each other one is farthest from those before it. The largest
    distance to a centre is then at most twice the least possible (Gonzalez, 1985). Deterministic.
    """

    def pick(self, features: Tensor, count: int, generator: torch.Generator) -> Tensor:
        del generator

        def distance(to: Tensor) -> Tensor:
            return (features - to).square().sum(1)

        chosen = [distance(features.mean(0)).argmin()]
        nearest = distance(features[chosen[0]])
        for _ in range(count - 1):
            chosen.append(nearest.argmax())
            nearest = torch.minimum(nearest, distance(features[chosen[-1]]))
        return torch.stack(chosen)


# What a distilled set of the same size stands beside.
BASELINES: Mapping[str, Selection] = {
    "random": RandomReal(),
    "herding": Herding(),
    "k_centre": KCentre(),
}
