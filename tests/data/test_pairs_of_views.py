"""Pairs of two views: read, or refused with the array that is wrong."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from problems import seeded

from bilevel_cli.data.digit_halves import DigitHalves
from bilevel_cli.data.digits import Digits
from bilevel_cli.data.pairs import Pairs

A, B = np.arange(12.0).reshape(6, 2), np.arange(24, dtype=np.uint8).reshape(6, 1, 2, 2)


def own(folder: Path, **arrays: Any) -> Pairs:
    path = folder / "my.npz"
    np.savez(path, **{"a": A, "b": B} | arrays)
    return Pairs(str(path), "a", "b", 3, 1, 2, 1.0)


def test_rows_stay_together_and_bytes_become_numbers_up_to_one(tmp_path: Path) -> None:
    for part, size in zip(own(tmp_path).splits(seeded(0)), (3, 1, 2), strict=True):
        assert part.x.shape == (size, 2)
        assert torch.equal(part.x, torch.from_numpy(A)[part.index])
        torch.testing.assert_close(part.y, torch.from_numpy(B / 255.0)[part.index])


def test_the_halves_of_a_digit_beside_each_other_are_the_digit() -> None:
    halves, digits = (kind(5, 4, 3).splits(seeded(1)) for kind in (DigitHalves, Digits))
    for half, whole in zip(halves, digits, strict=True):
        assert torch.equal(torch.cat([half.x, half.y], 3), whole.x)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"b": B[:5]}, "as many rows as in 'a' in 'b' of .*, got 5 and 6"),
        ({"a": A[:, 0]}, r"numbers of shape \[n, ...\] in 'a' of .*, got float64 of shape \[6\]"),
        ({"b": A.astype(str)}, "numbers of shape .* in 'b'"),
        ({"a": np.where(A == 3, np.nan, A)}, "finite numbers in 'a'"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(
    arrays: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        own(tmp_path, **arrays).splits(seeded(0))
