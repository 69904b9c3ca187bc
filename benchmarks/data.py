"""Synthetic data of the shapes of real ones, from fixed seeds; times hardly depend on values."""

import torch
from torch import Tensor

from bilevel_cli.data.base import Classes, ClassSplits, Examples, Labelled, Rows, Splits


class Blobs(Examples):
    """Rows or images of `num_classes` classes: a template for each class, and noise.

    Args:
        shape: Of one input.
        num_classes: Number of classes.
        train: Number of training examples.
        validation: Number of validation examples.
    """

    def __init__(self, shape: list[int], num_classes: int, train: int, validation: int) -> None:
        super().__init__(train, validation, 10)
        self.shape, self.num_classes = shape, num_classes

    def read(self) -> tuple[Labelled, None]:
        random = torch.Generator().manual_seed(0)
        count = sum(size or 0 for size in (self.train, self.validation, self.test))
        y = torch.randint(self.num_classes, (count,), generator=random)
        templates = torch.randn(self.num_classes, *self.shape, generator=random)
        x = 0.3 * (0.2 * templates[y] + torch.randn(count, *self.shape, generator=random))
        return Labelled(x.to(torch.get_default_dtype()), y, torch.arange(count)), None


class Points(Blobs, Rows):
    """Blobs that are rows of a table. Args: as `Blobs`."""


class Misleading(Examples):
    """Rows on which the outer loss of gradient descent rises first and falls later.

    A strong block of inputs names the class in 7 of 10 training examples, the next class in the
    others, and in validation examples one that it never meant; a weak block names it always. The
    strong one is learned first, as far as it deserves, so the outer loss rises, to a step that
    depends on the weak one's scale, and then falls.

    Args:
        features: Inputs; half of them in each block.
        strong: Scale of the strong block.
        weak: Scale of the weak block.
        train: Number of training examples.
        validation: Number of validation examples.
    """

    num_classes = 10

    def __init__(
        self, features: int, strong: float, weak: float, train: int, validation: int
    ) -> None:
        super().__init__(train, validation, 10)
        self.features, self.strong, self.weak = features, strong, weak

    def read(self) -> tuple[Labelled, None]:
        raise NotImplementedError  # training and validation examples differ: see `splits`

    def splits(self, generator: torch.Generator) -> Splits:
        random = torch.Generator().manual_seed(0)
        half = self.features // 2
        templates = torch.randn(2, self.num_classes, half, generator=random) / half**0.5

        def part(size: int | None, share: float, shift: int) -> Labelled:
            count = size or 0
            y = torch.randint(self.num_classes, (count,), generator=random)
            wrong = y + shift * (torch.rand(count, generator=random) < share)
            blocks = self.strong * templates[0, wrong % 10], self.weak * templates[1, y]
            x = torch.cat(blocks, 1).to(torch.get_default_dtype())
            return Labelled(x, y, torch.arange(count))

        return Splits(
            part(self.train, 0.3, 1), part(self.validation, 1.0, 5), part(self.test, 0.0, 0)
        )


class Characters(Classes):
    """Images by class of the size of Omniglot's, 28 x 28 and 20 of each class."""

    split_statement = "synthetic"

    def classes(self) -> ClassSplits:
        random = torch.Generator().manual_seed(0)

        def images() -> Tensor:
            templates = torch.randint(128, (20, 1, 1, 28, 28), generator=random)
            return (templates + torch.randint(128, (20, 20, 1, 28, 28), generator=random)).byte()

        return ClassSplits(images(), images(), images())
