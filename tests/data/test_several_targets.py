"""Data with several targets: planted ones, properties of digits, and columns of one's own table."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from configs import composed
from data_files import message
from hydra.utils import instantiate
from problems import seeded

from bilevel_cli.data.base import Splits
from bilevel_cli.data.digit_targets import DigitTargets
from bilevel_cli.data.digits import Digits
from bilevel_cli.data.planted_targets import PlantedTargets

PLANTED: dict[str, Any] = {
    "weights": [[1.0, 1.0], [1.0, 1.0], [-1.0, -4.0]],
    "noise": [5.0, 0.25, 0.25],
    "names": ["main", "helpful", "harmful"],
    **{"train": 20_000, "validation": 40, "test": 30},
}


def test_planted_targets_have_their_weights_and_their_noise() -> None:
    data = PlantedTargets(**PLANTED)
    train, held, _ = data.splits(seeded())
    assert len(held.y) == 40
    found = torch.linalg.lstsq(train.x, train.y).solution
    # Of 20 000 rows: standard deviations of 5 / 141 and 0.25 / 141.
    error = (found - torch.tensor(PLANTED["weights"]).T).abs()
    assert (error.amax(0) < 5 * torch.tensor(PLANTED["noise"]) / 141).all()
    rest = (train.y - train.x @ found).std(0)
    torch.testing.assert_close(rest, torch.tensor(PLANTED["noise"]), rtol=0.02, atol=0)
    assert not torch.equal(data.splits(seeded(1)).train.x, train.x)


def test_properties_of_digits_are_right_where_the_digit_is_wrong() -> None:
    data = DigitTargets(0.5, 600, 300, 300)
    parts, (truth, _) = data.splits(seeded()), Digits(600, 300, 300).read()
    for part, wrong in zip(parts, (0.5, 0.0, 0.0), strict=True):
        digit = truth.y[part.index]
        torch.testing.assert_close(part.x, truth.x[part.index])
        share = (part.y[:, 0] != digit).double().mean()
        # Of 600 examples: standard deviation 0.02.
        assert abs(share - wrong) < 0.08 * (wrong > 0) + 1e-12
        assert torch.equal(part.y[:, 1], digit % 2.0)
        assert set(digit[part.y[:, 2] == 0].tolist()) == {1, 4, 7}
        assert abs((part.y[:, 3] == digit).double().mean() - 0.1) < 0.1
    assert "noise from 0 to 1" in message(lambda: DigitTargets(2.0, 5, 5, 5))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"weights": [[1.0]]}, "two or more targets, got 1, 3 and 3"),
        ({"weights": [[1.0], [1.0, 2.0], [1.0]]}, "as many weights of each target"),
        ({"noise": [1.0, -1.0, 1.0]}, "finite noise >= 0"),
    ],
)
def test_impossible_targets_are_refused(changes: dict[str, Any], expected: str) -> None:
    assert expected in message(lambda: PlantedTargets(**{**PLANTED, **changes}))


def houses(folder: Path) -> Path:
    x = torch.randn(60, 3, generator=seeded()).numpy()
    table = pd.DataFrame(x, columns=["rooms", "age", "floor"])
    table["price, €"] = 3 * table["rooms"] + table["age"]
    table["tax"] = 100 + 2 * table["rooms"]
    table.to_csv(folder / "houses.csv", index=False)
    return folder / "houses.csv"


def test_columns_of_a_table_are_targets_in_the_order_that_is_given(tmp_path: Path) -> None:
    changes = [f"data.path={houses(tmp_path)}", "data.target=['price, €',tax]"]
    data = instantiate(composed("data=targets_table", *changes).data)
    parts: Splits = data.splits(seeded())
    assert data.target_names == ["price, €", "tax"]
    assert parts.train.x.shape == (36, 3)
    torch.testing.assert_close(parts.train.y.mean(0), torch.zeros(2), rtol=0, atol=1e-12)
    torch.testing.assert_close(parts.train.y.std(0, correction=0), torch.ones(2))
    # tax is 2 rooms + 100, and the first feature is rooms.
    for part in parts:
        torch.testing.assert_close(part.x[:, 0], part.y[:, 1])


@pytest.mark.parametrize(
    ("option", "wrong", "expected"),
    [
        ("targets_table", "tax", "two or more different columns"),
        ("targets_table", "[tax,tax]", "two or more different columns"),
        ("targets_table", "[tax,taxes]", "got taxes"),
        ("targets_table", "null", "needs target to be a column"),
        ("regression_table", "[tax,age]", "use data=targets_table"),
    ],
)
def test_one_target_or_one_twice_is_refused(
    option: str, wrong: str, expected: str, tmp_path: Path
) -> None:
    changes = [f"data.path={houses(tmp_path)}", f"data.target={wrong}"]
    data = composed(f"data={option}", *changes).data
    with pytest.raises(Exception, match=expected):
        instantiate(data).splits(seeded())
