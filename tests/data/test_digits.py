"""The digits of scikit-learn: their parts, their classes and the turns of their images."""

import pytest
import torch
from data_files import extremes, message
from problems import seeded

from bilevel_cli.data.base import Examples
from bilevel_cli.data.breast_cancer import BreastCancer
from bilevel_cli.data.digits import Digits
from bilevel_cli.data.reading.rotations import rotated_classes


@pytest.mark.parametrize(
    "data", [Digits(600, 600, 597), BreastCancer(200, 150, 219)], ids=["digits", "breast_cancer"]
)
def test_embedded_examples_are_drawn_once_each_and_alike_for_one_seed(data: Examples) -> None:
    parts, again, other = (data.splits(seeded(seed)) for seed in (0, 0, 1))
    assert [len(p.y) for p in parts] == [data.train, data.validation, data.test]
    everything = torch.cat([part.index for part in parts]).sort().values
    assert torch.equal(everything, torch.arange(len(everything)))
    for part, same in zip(parts, again, strict=True):
        assert torch.equal(part.x, same.x)
        assert torch.equal(part.y, same.y)
        assert part.x.dtype == torch.get_default_dtype()
        assert torch.unique(part.y).tolist() == list(range(data.num_classes))
    assert not torch.equal(parts.train.index, other.train.index)


def test_one_example_more_than_there_are_is_refused() -> None:
    text = message(lambda: Digits(600, 600, 598).splits(seeded(0)))
    assert text.startswith("Digits needs train + validation + test <= 1797 examples, got 1798.")
    assert "got validation=0. Set data.validation." in message(lambda: BreastCancer(200, 0, 219))


def test_digits_have_pixels_from_0_to_1() -> None:
    pool, official = Digits(600, 600, 597).read()
    assert official is None
    assert pool.x.shape == (1797, 1, 8, 8)
    assert extremes(pool.x) == (0, 1)
    assert torch.equal(pool.x * 16, (pool.x * 16).round())


def test_digits_make_twenty_classes_to_learn_from_and_twenty_new_ones() -> None:
    data = Digits(600, 600, 597)
    parts, again = data.classes(), data.classes()
    # The rarest digit, 8, has 174 images; a fifth of them, 34, is for validation.
    shapes = [(20, 140, 1, 8, 8), (20, 34, 1, 8, 8), (20, 174, 1, 8, 8)]
    assert [part.shape for part in parts] == shapes
    for part, same in zip(parts, again, strict=True):
        assert part.dtype == torch.uint8
        assert extremes(part) == (0, 255)
        assert torch.equal(part, same)
    pool, _ = data.read()
    first = torch.stack([pool.x[pool.y == digit][0] for digit in range(10)])
    unrotated = torch.cat([parts.train[:5, 0], parts.test[:5, 0]])
    torch.testing.assert_close(unrotated / 255, first, atol=0.5 / 255, rtol=0)
    seen = {image.numpy().tobytes() for image in parts.train.flatten(0, 1)}
    held_out = {image.numpy().tobytes() for image in parts.validation.flatten(0, 1)}
    assert seen.isdisjoint(held_out)
    assert "20 classes" in data.split_statement


def test_four_quarter_turns_make_four_classes_and_a_fifth_would_repeat_the_first() -> None:
    images = torch.arange(2 * 3 * 1 * 4 * 4).reshape(2, 3, 1, 4, 4)
    turned = rotated_classes(images).reshape(4, 2, 3, 1, 4, 4)
    assert torch.equal(turned[0], images)
    # Half a turn reverses rows and columns, a quarter carries the last column to the first row.
    assert torch.equal(turned[2], images.flip(-2, -1))
    assert torch.equal(turned[1][..., 0, :], images[..., :, -1])
    assert torch.equal(rotated_classes(turned[3])[2:4], images)
