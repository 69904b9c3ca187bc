"""Examples in several representations: read, or refused with the array that is wrong."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bilevel_cli.data.representations import Representations

A, B = np.arange(12.0).reshape(6, 2), np.arange(24, dtype=np.uint8).reshape(6, 2, 2)
Y = np.array(["x", "y"] * 3)


def written(folder: Path, **arrays: Any) -> str:
    path = folder / "my.npz"
    np.savez(path, **{"a": A, "b": B, "y": Y} | arrays)
    return str(path)


def test_arrays_become_rows_of_features_and_labels_numbers(tmp_path: Path) -> None:
    data = Representations(written(tmp_path), ["a", "b"], "y", 1.0)
    a, b = data.spaces()
    assert torch.equal(a, torch.from_numpy(A))
    assert torch.equal(b, torch.from_numpy(B.reshape(6, 4).astype(float)))
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1] * 3
    assert data.class_names == ["x", "y"]
    unknown = Representations(written(tmp_path), ["a"], None, 1.0)
    assert (unknown.labels, unknown.class_names) == (None, [])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"b": B[:5]}, "as many rows as in 'a' in 'b' of .*, got 5 and 6"),
        ({"a": A[:, 0]}, r"numbers of shape \[n, ...\] in 'a' of .*, got float64 of shape \[6\]"),
        ({"a": Y[:, None]}, "numbers of shape .* in 'a'"),
        ({"a": np.where(A == 3, np.nan, A)}, "finite numbers in 'a'"),
        ({"y": Y[:4]}, r"whole numbers or texts of shape \[6\] in 'y'"),
        ({"y": np.zeros(6, int)}, "needs two classes at least, got 1 in 'y'"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(
    arrays: dict[str, Any], message: str, tmp_path: Path
) -> None:
    data = Representations(written(tmp_path, **arrays), ["a", "b"], "y", 1.0)
    with pytest.raises(ValueError, match=message):
        data.spaces(), data.labels


def test_a_name_that_is_no_list_is_refused_at_once() -> None:
    names: Any = "a"
    with pytest.raises(ValueError, match="the names of arrays, got x=a"):
        Representations("my.npz", names, None, 1.0)
