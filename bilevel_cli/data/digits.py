"""The handwritten digits that scikit-learn ships."""

import torch
from torch import Tensor

from bilevel_cli.data.base import Classes, ClassSplits, Examples, Labelled
from bilevel_cli.data.reading import shipped
from bilevel_cli.data.reading.rotations import rotated_classes


class Digits(Examples, Classes):
    """1,797 images of 8x8 (Alpaydin, Kaynak, 1998, https://doi.org/10.24432/C50P49).

    As examples, `x` has shape [n, 1, 8, 8] and the digit is the label.

    As classes, each digit under each of four rotations is a class. Some look alike (a 6 upside down
    is nearly a 9, an 8 upside down is an 8), so no learner reaches accuracy 1.

    Args:
        train: Number of training examples.
        validation: Number of validation examples.
        test: Number of test examples; all three together at most 1,797. Classes use every image.
    """

    benchmark = True
    num_classes = 10

    def read(self) -> tuple[Labelled, Labelled | None]:
        images, labels = _load()
        x = images.div(16).to(torch.get_default_dtype())
        return Labelled(x, labels, torch.arange(len(labels))), None

    def classes(self) -> ClassSplits:
        images, labels = _load()
        pixels = images.mul(255 / 16).round().to(torch.uint8)
        count = int(labels.bincount().min())  # 174: a tensor needs equally many of each
        digits = torch.stack([pixels[labels == digit][:count] for digit in range(10)])
        seen, unseen = digits[:5], digits[5:]
        kept = count - count // 5
        return ClassSplits(
            train=rotated_classes(seen[:, :kept]),
            validation=rotated_classes(seen[:, kept:]),
            test=rotated_classes(unseen),
        )

    @property
    def split_statement(self) -> str:
        return (
            "digits 0-4 in four rotations (20 classes) for training, the last fifth of their "
            "images held out for validation; digits 5-9 in four rotations (20 classes) for test"
        )


def _load() -> tuple[Tensor, Tensor]:
    """Images [1797, 1, 8, 8] with values 0..16, float64, and labels [1797]."""
    table = shipped.table("digits.csv.gz", delimiter=",")
    return table[:, :-1].reshape(-1, 1, 8, 8), table[:, -1].long()
