"""Real examples as networks see them, and the groups in which learned ones stand beside them."""

from typing import NamedTuple

import torch
from torch import Tensor

from bilevel_cli.core import draws
from bilevel_cli.core.problem import Batch
from bilevel_cli.data.base import Labelled


class RealExamples:
    """Training and test examples, with mean 0 and variance 1 over the training ones.

    Means are taken channel by channel, or feature by feature of the rows of a table. Classes that
    do not occur among the training examples are left out.

    Args:
        train: Training examples, in the units of the data.
        test: Test examples, likewise.
        num_classes: C, the number of all classes.
        device: Where all tensors live from now on.

    Attributes:
        train: Training examples, normalised.
        test: Test examples, normalised.
        mean: What was subtracted, of shape [1, channels, 1, 1] for images.
        std: What was divided by then, of the same shape.
        group: The class of each training example, numbered among those that occur; of shape [n].
        counts: The number of training examples of each of these classes, of shape [classes].
        rarest: The least of these numbers.
        one_hot: Their labels, of shape [classes, C].
    """

    def __init__(
        self, train: Labelled, test: Labelled, num_classes: int, device: torch.device
    ) -> None:
        mean, std = moments(train.x)
        self.train, self.test = (_normalised(part, mean, std, device) for part in (train, test))
        self.mean, self.std = mean.to(self.train.x), std.to(self.train.x)
        present, group, counts = torch.unique(train.y, return_inverse=True, return_counts=True)
        self.group, self.counts = group.to(device), counts.to(device)
        self.rarest, self._commonest = int(counts.min()), int(counts.max())
        self.one_hot = torch.eye(num_classes, device=device)[present.to(device)]
        # The rows of one class after those of another, and where each class begins.
        self._rows = group.argsort(stable=True).to(device)
        self._first = self.counts.cumsum(0) - self.counts

    def draw(self, per_class: int, generator: torch.Generator) -> Batch:
        """Examples of every class, with replacement: "x", and one-hot labels "y".

        Args:
            per_class: How many of each.
            generator: On the device of the examples.

        Returns:
            Tensors of shape [classes, per_class, ...] and [classes, per_class, C].
        """
        shape = len(self.counts), per_class
        place = draws.uniform(*shape, generator=generator) * self.counts[:, None]
        return self._at(place.long())

    def draw_distinct(self, per_class: int, generator: torch.Generator) -> Batch:
        """As `draw`, without replacement, in random order; per_class <= `rarest`."""
        shape = len(self.counts), self._commonest
        keys = draws.uniform(*shape, generator=generator)
        places = torch.arange(self._commonest, device=keys.device)
        keys = torch.where(places < self.counts[:, None], keys, -1.0)
        return self._at(keys.topk(per_class).indices)

    def in_units_of_the_data(self, x: Tensor) -> Tensor:
        """What was normalised, or learned in its place, before it was normalised."""
        return x * self.std + self.mean

    def _at(self, place: Tensor) -> Batch:
        """The examples at places [classes, n], each among those of its class."""
        rows = self._rows[place + self._first[:, None]]
        return {"x": self.train.x[rows], "y": self.one_hot[:, None].expand(-1, place.shape[1], -1)}


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation over examples [n, channels, ...], channel by channel; 1 in place of 0.

    Both have shape [1, channels, 1, ...]. Columns of a table are channels.
    """
    dims = [dim for dim in range(x.ndim) if dim != 1]
    std, mean = torch.std_mean(x, dims, correction=0, keepdim=True)
    return mean, torch.where(std > 0, std, 1)


class Groups(NamedTuple):
    """How learned images are kept: group after group, a class each, or one group of no class.

    Attributes:
        number: The number of groups.
        each: Learned images of a group.
        labels: Of all learned images before they are learned, of shape [number * each, C].
        of_real: The group of each real training example, int64, of shape [n].
    """

    number: int
    each: int
    labels: Tensor
    of_real: Tensor


def grouped(real: RealExamples, per_class: int | None, count: int | None) -> Groups:
    """The groups of learned images, `per_class` of each class, or `count` of no class.

    Raises:
        ValueError: A class has fewer real examples than learned ones.
    """
    if per_class is None:
        assert count is not None
        even = real.one_hot.mean(0).expand(count, -1).clone()
        return Groups(1, count, even, torch.zeros_like(real.group))
    if real.rarest < per_class:
        raise ValueError(
            f"Distillation needs per_class <= {real.rarest}, the training examples of the rarest "
            f"class, got {per_class} images of each class for training. Raise data.train."
        )
    hard = real.one_hot.repeat_interleave(per_class, 0)
    return Groups(len(real.counts), per_class, hard, real.group)


def _normalised(part: Labelled, mean: Tensor, std: Tensor, device: torch.device) -> Labelled:
    x = ((part.x - mean) / std).to(device, torch.get_default_dtype())
    return Labelled(x, part.y.to(device), part.index.to(device))
