"""What a data set offers to a task: examples with targets, or images by class for episodes.

Data sets return tensors on the CPU, which a task moves to its device. Nobody writes into them.
"""

import abc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from bilevel_cli.data.stratification import stratified, stratified_folds


@dataclass(frozen=True)
class Labelled:
    """Examples with their labels, or with targets that are real numbers.

    Attributes:
        x: Inputs, floating; or int64, such as the tokens of a text. Images have shape [n, channels,
            height, width] and values in [0, 1], where 0 is paper. Rows of a table have shape [n,
            features].
        y: Labels from 0 to num_classes - 1, int64, of shape [n]; floating targets of shape [n] in
            a `Regression`.
        index: The number that each example has in its source, int64, of shape [n].
    """

    x: Tensor
    y: Tensor
    index: Tensor

    def take(self, rows: Tensor) -> "Labelled":
        """The examples of these rows, in their order; `rows` is int64, of shape [m]."""
        return Labelled(self.x[rows], self.y[rows], self.index[rows])

    def to(self, device: torch.device) -> "Labelled":
        """The same examples on a device, with floating inputs in torch's default type."""
        x = self.x.to(device)
        if x.is_floating_point():
            x = x.to(torch.get_default_dtype())
        return Labelled(x, self.y.to(device), self.index.to(device))


class Splits(NamedTuple):
    """The parts of a data set, which have no example in common. Only `test` may be empty."""

    train: Labelled
    validation: Labelled
    test: Labelled


class Source(abc.ABC):
    """A data set that can be cut into training, validation and test examples.

    Parts whose number is null share what the other parts leave, as 60 : 20 : 20.

    Args:
        train: Number of training examples, or null.
        validation: Number of validation examples, or null.
        test: Number of test examples, or null. Null takes all of an official test set.

    Raises:
        ValueError: A number is below 1.

    Attributes:
        benchmark: Whether this is a published set, for comparisons. Experiments may make some of
            its labels wrong without being asked, and its parts are cut as they always were. Data of
            one's own are neither: no label changes unasked, and classes are shared out.
    """

    benchmark: ClassVar[bool] = False

    def __init__(self, train: int | None, validation: int | None, test: int | None) -> None:
        for name, size in (("train", train), ("validation", validation), ("test", test)):
            if size is not None and size < 1:
                raise ValueError(
                    f"{type(self).__name__} needs {name} >= 1 examples, got {name}={size}. "
                    f"Set data.{name}."
                )
        self.train, self.validation, self.test = train, validation, test

    @property
    def statement(self) -> str:
        """How the data were read, in one line; empty where there was nothing to decide."""
        return ""

    def names_of(self, index: Tensor) -> NDArray[Any]:
        """What results call examples: their numbers, unless the source has names for them.

        Args:
            index: Of `Labelled`, of shape [n].
        """
        return index.cpu().numpy()

    @abc.abstractmethod
    def read(self) -> tuple[Labelled, Labelled | None]:
        """The examples to split, and the official test set, or None where there is none.

        Raises:
            ValueError: The files are absent, or not what they should be.
        """

    def splits(self, generator: torch.Generator) -> Splits:
        """Draws disjoint parts, without replacement.

        The test part comes from the official test set where there is one.

        Args:
            generator: On the CPU, so that one seed gives one split on every device.

        Raises:
            ValueError: As `read`, or there are fewer examples than the parts want.
        """
        return self.cut(*self.read(), generator)

    def cut(self, pool: Labelled, official: Labelled | None, generator: torch.Generator) -> Splits:
        """Draws the parts, as `splits` does, from what `read` returned."""
        wanted = [self.train, self.validation] + [self.test] * (official is None)
        sizes = shared_out(wanted, len(pool.y), SHARES)
        self._require(
            sum(sizes), len(pool.y), "train + validation" + " + test" * (official is None)
        )
        order = torch.randperm(len(pool.y), generator=generator)
        parts = [pool.take(rows) for rows in self.parted(order, pool.y, sizes)]
        if official is not None:
            (test,) = shared_out([self.test], len(official.y), SHARES)
            self._require(test, len(official.y), "test")
            order = torch.randperm(len(official.y), generator=generator)
            parts += [official.take(rows) for rows in self.parted(order, official.y, [test])]
        return Splits(*parts)

    def parted(self, order: Tensor, targets: Tensor, sizes: Sequence[int]) -> Sequence[Tensor]:
        """The rows of disjoint parts.

        Args:
            order: The rows to cut, in random order, int64, of shape [m].
            targets: Of all rows of the source, of shape [n].
            sizes: Of the parts, with a sum <= m.
        """
        del targets
        return torch.split(order[: sum(sizes)], list(sizes))

    def _require(self, wanted: int, available: int, what: str) -> None:
        if wanted > available:
            raise ValueError(
                f"{type(self).__name__} needs {what} <= {available} examples, got {wanted}. "
                "Lower data.train, data.validation or data.test."
            )


SHARES = (60, 20, 20)  # of training, validation and test examples


def shared_out(sizes: Sequence[int | None], available: int, shares: Sequence[int]) -> list[int]:
    """The sizes, where each null becomes its share of what the others leave, at least 1.

    Args:
        sizes: Of the parts, or nulls.
        available: Examples for all parts together.
        shares: Weights of the parts, such as 60, 20 and 20.
    """
    left = available - sum(size or 0 for size in sizes)
    weights = [share * (size is None) for size, share in zip(sizes, shares, strict=False)]
    # Rounded where one part ends and the next begins, so that nothing is lost.
    ends = [round(left * sum(weights[:i]) / max(1, sum(weights))) for i in range(len(sizes) + 1)]
    return [max(1, ends[i + 1] - ends[i]) if size is None else size for i, size in enumerate(sizes)]


class Examples(Source):
    """Examples of `num_classes` classes, each with its share of every part. Args: as `Source`."""

    num_classes: int

    def parted(self, order: Tensor, targets: Tensor, sizes: Sequence[int]) -> Sequence[Tensor]:
        if self.benchmark:
            return super().parted(order, targets, sizes)
        return stratified(order, targets, sizes)

    def folds(self, labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """The fold of each example, from 0 to count - 1, int64, of shape [n].

        Args:
            labels: Of the examples, int64, of shape [n].
            count: Number of folds. Their sizes differ by one at most.
            generator: On the CPU.
        """
        order = torch.randperm(len(labels), generator=generator)
        return order % count if self.benchmark else stratified_folds(order, labels, count)

    @property
    def class_names(self) -> list[str]:
        """What people call the classes: their numbers, unless the source has names."""
        return [str(number) for number in range(self.num_classes)]


class Pixels(Examples):
    """Examples that stay bytes until parts are drawn, which takes a quarter of the memory.

    Args: as `Source`, and
        standardize: Whether every channel of images, or every entry of other inputs, gets mean 0
            and variance 1 over the training examples. One that is constant there is only shifted.
    """

    def __init__(
        self, train: int | None, validation: int | None, test: int | None, standardize: bool
    ) -> None:
        super().__init__(train, validation, test)
        self.standardize = standardize

    @abc.abstractmethod
    def pixels(self) -> tuple[Labelled, Labelled | None]:
        """As `read`, but `x` may be uint8, from 0 to 255."""

    def read(self) -> tuple[Labelled, Labelled | None]:
        pool, official = self.pixels()
        return _scaled(pool), None if official is None else _scaled(official)

    def splits(self, generator: torch.Generator) -> Splits:
        parts = Splits(*map(_scaled, self.cut(*self.pixels(), generator)))
        if not self.standardize:
            return parts
        if not parts.train.x.is_floating_point():
            raise ValueError(
                f"{type(self).__name__} standardises floating inputs or bytes, got whole numbers, "
                "which are taken for tokens. Set data.standardize=false, or convert them to float."
            )
        return standardized(parts, (0, 2, 3) if parts.train.x.dim() == 4 else (0,))


def _scaled(part: Labelled) -> Labelled:
    if part.x.dtype == torch.int64:  # tokens, which are names and not amounts
        return part
    x = part.x.to(torch.get_default_dtype())
    return replace(part, x=x.div_(255) if part.x.dtype == torch.uint8 else x)


class Rows(Examples):
    """Rows of a table, of shape [n, features], of some classes. Args: as `Source`."""


class TwoClasses(Rows):
    """Rows of two classes. Args: as `Source`."""

    num_classes = 2


class Regression(Source):
    """Rows of a table, of shape [n, features], with real targets. Args: as `Source`."""


def standardized(parts: Splits, over: tuple[int, ...] = (0,)) -> Splits:
    """All parts, shifted and scaled alike, so that training inputs have mean 0 and variance 1.

    Args:
        parts: To standardise.
        over: Dimensions over which means are taken. (0,), the examples, treats every entry of an
            input by itself.
    """
    std, mean = torch.std_mean(parts.train.x, dim=over, correction=0, keepdim=True)
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
