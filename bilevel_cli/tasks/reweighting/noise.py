"""What is done to training examples so that there is something for weights to find."""

import abc
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bilevel_cli.core import draws
from bilevel_cli.data.base import Labelled

Corrupted = tuple[Labelled, Tensor | None]


class Corruption(abc.ABC):
    """A change of the training examples, made once, at loading.

    Attributes:
        option: What asks for it: task/noise=...
    """

    option: ClassVar[str] = "..."

    @abc.abstractmethod
    def __call__(
        self, examples: Labelled, num_classes: int, generator: torch.Generator
    ) -> Corrupted:
        """The examples to train on, and a mask of those that are flagged, boolean, of shape [n].

        Args:
            examples: With the labels of their source.
            num_classes: Number of classes.
            generator: On the CPU.

        Returns:
            The mask is None where nobody knows which labels are wrong.
        """

    def statement(self, before: Labelled, after: Labelled, own: bool) -> str:
        """What was changed, in one or two sentences that cannot be misread.

        Args:
            before: The examples of the source.
            after: Those to train on.
            own: Whether they are the user's, and of no published set.
        """
        if after is before:
            return "No label was changed."
        what = f"{self.change(before, after)} on purpose (task/noise={self.option})."
        if not own:
            return what
        return (
            f"Your own data were changed, since this run asks for it: {what} The file is as it "
            "was. For its labels as they are, use task/noise=none."
        )

    def change(self, before: Labelled, after: Labelled) -> str:
        """What became of the examples, in words. Args: as `statement`."""
        wrong = int((after.y != before.y).sum())
        return f"{wrong} of the {len(before.y)} training labels were made wrong"


class NoNoise(Corruption):
    """The labels of the source. Some may be wrong, but nobody knows which."""

    option = "none"

    def __call__(
        self, examples: Labelled, num_classes: int, generator: torch.Generator
    ) -> Corrupted:
        return examples, None


@dataclass(frozen=True)
class LabelNoise(Corruption):
    """A given share of the labels become others.

    Args:
        share: The share of the examples whose labels are touched, in [0, 1); null for no noise.
    """

    share: float | None

    def __post_init__(self) -> None:
        if self.share is not None and not 0 <= self.share < 1:
            raise ValueError(
                f"{type(self).__name__} needs share in [0, 1), got share={self.share}. "
                "Set task.noise.share, or use task/noise=none."
            )

    def __call__(
        self, examples: Labelled, num_classes: int, generator: torch.Generator
    ) -> Corrupted:
        if self.share is None:
            return examples, None
        labels, flag = self.corrupt(examples.y, num_classes, generator)
        return Labelled(examples.x, labels, examples.index), flag

    @property
    def touched(self) -> float:
        """The share, as a number."""
        return self.share or 0.0

    @abc.abstractmethod
    def corrupt(
        self, labels: Tensor, num_classes: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The labels and their mask, as `__call__`."""

    def chosen(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """The numbers of round(share * n) examples drawn without replacement."""
        order = torch.randperm(len(labels), generator=generator)
        return order[: round(self.touched * len(labels))]


@dataclass(frozen=True)
class Symmetric(LabelNoise):
    """round(share * n) labels become another class, all others equally likely, and are flagged."""

    option = "symmetric"

    def corrupt(
        self, labels: Tensor, num_classes: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        changed = self.chosen(labels, generator)
        shift = torch.randint(1, num_classes, changed.shape, generator=generator)
        return _replaced(labels, changed, (labels[changed] + shift) % num_classes)


@dataclass(frozen=True)
class Pair(LabelNoise):
    """round(share * n) labels become the next class, and 0 after the last one. All are flagged."""

    option = "pair"

    def corrupt(
        self, labels: Tensor, num_classes: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        changed = self.chosen(labels, generator)
        return _replaced(labels, changed, (labels[changed] + 1) % num_classes)


@dataclass(frozen=True)
class Uniform(LabelNoise):
    """Each label is, with probability share, drawn anew among all classes; flagged where wrong."""

    option = "uniform"

    def corrupt(
        self, labels: Tensor, num_classes: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        redrawn = draws.uniform(*labels.shape, generator=generator) < self.touched
        drawn = torch.randint(0, num_classes, labels.shape, generator=generator)
        noisy = torch.where(redrawn, drawn, labels)
        return noisy, noisy != labels


@dataclass(frozen=True)
class Legacy(LabelNoise):
    """round(share * n) labels are drawn anew among all classes, and all of those are flagged.

    Published code of hyper-cleaning does this (that of IAPTT-GM, Liu et al., 2021,
    arXiv:2110.00455, and later code); use it to compare with the published tables. With ten classes
    a tenth of the flagged labels is right. A cleaner that finds every wrong label calls those
    clean. So at share 1/2 the precision of the best cleaner is 50 / 55, and its F1 is 95.2 %.
    """

    option = "legacy"

    def corrupt(
        self, labels: Tensor, num_classes: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        chosen = self.chosen(labels, generator)
        drawn = torch.randint(0, num_classes, chosen.shape, generator=generator)
        return _replaced(labels, chosen, drawn)


@dataclass(frozen=True)
class LongTail(Corruption):
    """Classes of different sizes, n_c = n_max imbalance^(-c / (C - 1)). All labels stay right.

    There are C classes, c = 0, 1, ..., and n_max = n / C (Cui et al., 2019, arXiv:1901.05555).

    Args:
        imbalance: Size of the first class over that of the last, >= 1; 10 to 200 are usual. Null
            leaves the sizes as they are.
    """

    imbalance: float | None

    option = "long_tail"

    def __post_init__(self) -> None:
        if self.imbalance is not None and not self.imbalance >= 1:
            raise ValueError(
                f"LongTail needs imbalance >= 1, got imbalance={self.imbalance}. "
                "Set task.noise.imbalance."
            )

    def __call__(
        self, examples: Labelled, num_classes: int, generator: torch.Generator
    ) -> Corrupted:
        if self.imbalance is None:
            return examples, None
        most = len(examples.y) / num_classes
        exponents = torch.arange(num_classes, dtype=torch.float64) / max(1, num_classes - 1)
        sizes = (most * self.imbalance**-exponents + 1e-9).long().clamp(min=1)
        # Examples come in random order: the first ones of a class are a random subset.
        one_hot = torch.nn.functional.one_hot(examples.y, num_classes)
        rank = one_hot.cumsum(0).gather(1, examples.y[:, None])[:, 0]  # from 1, within the class
        return examples.take((rank <= sizes[examples.y]).nonzero()[:, 0]), None

    def change(self, before: Labelled, after: Labelled) -> str:
        gone = len(before.y) - len(after.y)
        return f"{gone} of the {len(before.y)} training examples were left out"


def _replaced(labels: Tensor, rows: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    noisy, flag = labels.clone(), torch.zeros_like(labels, dtype=torch.bool)
    noisy[rows], flag[rows] = values, True
    return noisy, flag
