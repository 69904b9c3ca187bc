"""What a data set offers to a task: examples with targets, or images by class for episodes."""

import abc
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Labelled:
    """Examples with their labels, or with their targets where these are real numbers.

    Attributes:
        x: Inputs, floating. Images have shape [n, channels, height, width], values in [0, 1] and
            0 for paper; rows of a table have shape [n, features].
        y: Labels in 0..num_classes-1, int64, of shape [n]; of `Regression`, floating targets.
        index: The number that each example bears in its source, int64, of shape [n].
    """

    x: Tensor
    y: Tensor
    index: Tensor

    def take(self, rows: Tensor) -> "Labelled":
        return Labelled(self.x[rows], self.y[rows], self.index[rows])


class Splits(NamedTuple):
    train: Labelled
    validation: Labelled
    test: Labelled


class Source(abc.ABC):
    """A data set that can be cut into training, validation and test examples.

    Args:
        train: Number of training examples.
        validation: Number of validation examples.
        test: Number of test examples.
    """

    def __init__(self, train: int, validation: int, test: int) -> None:
        for name, size in (("train", train), ("validation", validation), ("test", test)):
            if size < 1:
                raise ValueError(
                    f"{type(self).__name__} needs {name} >= 1 examples, got {name}={size}. "
                    f"Set data.{name}."
                )
        self.train, self.validation, self.test = train, validation, test

    @abc.abstractmethod
    def read(self) -> tuple[Labelled, Labelled | None]:
        """The examples to split, and the official test set where there is one."""

    def splits(self, generator: torch.Generator) -> Splits:
        """Draws disjoint parts, without replacement; the test part from the official test set.

        Args:
            generator: On the CPU, so that one seed gives one split on every device.
        """
        pool, official = self.read()
        sizes = [self.train, self.validation]
        if official is None:
            sizes.append(self.test)
        self._require(
            sum(sizes), len(pool.y), "train + validation" + " + test" * (official is None)
        )
        order = torch.randperm(len(pool.y), generator=generator)
        parts = [pool.take(rows) for rows in torch.split(order[: sum(sizes)], sizes)]
        if official is not None:
            self._require(self.test, len(official.y), "test")
            order = torch.randperm(len(official.y), generator=generator)
            parts.append(official.take(order[: self.test]))
        return Splits(*parts)

    def _require(self, wanted: int, available: int, what: str) -> None:
        if wanted > available:
            raise ValueError(
                f"{type(self).__name__} needs {what} <= {available} examples, got {wanted}. "
                "Lower data.train, data.validation or data.test."
            )


class Examples(Source):
    """Examples of `num_classes` classes. Args: as `Source`."""

    num_classes: int


class TwoClasses(Examples):
    """Rows of a table, of shape [n, features], of two classes. Args: as `Source`."""

    num_classes = 2


class Regression(Source):
    """Rows of a table, of shape [n, features], with real targets. Args: as `Source`."""


def standardized(parts: Splits) -> Splits:
    """All parts with the inputs at mean 0 and variance 1 of the training part, entry by entry."""
    std, mean = torch.std_mean(parts.train.x, dim=0, correction=0)
    std = torch.where(std > 0, std, 1)  # an entry that is constant in the training part
    return Splits(*(replace(part, x=(part.x - mean) / std) for part in parts))


class ClassSplits(NamedTuple):
    """Images by class: uint8 tensors [classes, images, channels, height, width], 0 for paper."""

    train: Tensor
    validation: Tensor
    test: Tensor


class Classes(abc.ABC):
    """Images by class, for episodes of a few classes and a few images each."""

    @abc.abstractmethod
    def classes(self) -> ClassSplits:
        """The same split at every call: papers compare on one, whatever the seed."""

    @property
    @abc.abstractmethod
    def split_statement(self) -> str:
        """One line that says which classes are in which part."""
