"""Labels and what a table says of itself: classes called NA, blanks, how columns were read."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from data_files import message
from own_tables import AMOUNTS, DAYS, LABELS, european, everything, followed, own, written

from bilevel_cli.data.table import RegressionTable


@pytest.mark.parametrize("word", ["NA", "None", "null"])
def test_a_class_may_be_called_as_a_missing_value(word: str, tmp_path: Path) -> None:
    frame = pd.DataFrame({"price": AMOUNTS, "churn": np.where(LABELS == "no", word, "DE")})
    frame.loc[7, "price"] = None
    content = frame.to_csv(index=False, na_rep="NA")
    data, said = followed(written(tmp_path, content))
    assert f"They hold {word!r}. If that is a class, add data.keep_default_na=false" in said[0]
    assert set(data.class_names) == {word, "DE"}
    assert everything(data)[:, 1].nonzero()[:, 0].tolist() == [7]  # NA among numbers is none


def test_blanks_around_labels_do_not_count_and_are_said(tmp_path: Path) -> None:
    frame = pd.DataFrame({"price": AMOUNTS, "churn": LABELS})
    frame.loc[[3, 5], "churn"] = [" yes", "yes\t"]
    data = own(written(tmp_path, frame))
    assert data.class_names == ["no", "yes"]
    assert data.statement.endswith("; 2 labels trimmed.")
    frame.loc[[7, 9], "churn"] = "Yes"
    statement = own(written(tmp_path, frame)).statement
    assert statement.endswith("; 2 labels trimmed; classes 'Yes' and 'yes' differ in case alone.")
    frame.loc[3, "churn"] = "  "
    text = message(own(written(tmp_path, frame)).read)
    assert "a value of 'churn' in every row, got none in 1 rows" in text


def test_a_target_with_decimal_commas_is_a_number(tmp_path: Path) -> None:
    frame = pd.DataFrame({"size": AMOUNTS, "churn": AMOUNTS})
    twin, _ = own(written(tmp_path, frame, "plain.csv"), RegressionTable).read()
    frame["churn"] = [european(value) for value in AMOUNTS]
    path = written(tmp_path, frame.to_csv(index=False, sep=";"))
    data, _ = followed(path, RegressionTable)
    assert torch.equal(data.read()[0].y, twin.y)


def test_each_column_is_described_on_request(tmp_path: Path) -> None:
    frame = pd.DataFrame({"price": AMOUNTS, "day": DAYS.strftime("%Y-%m-%d"), "code": "x"})
    frame["town"], frame["case"] = ["Rome", "Oslo"] * 30, 3 * np.arange(60)
    frame.loc[4, "price"] = None
    path = written(tmp_path, frame.assign(churn=LABELS))
    data = own(path, describe=True, drop=["case"])
    first, *lines = data.statement.splitlines()
    assert first == own(path, drop=["case"]).statement
    low, high = frame.price.min(), frame.price.max()
    assert lines == [
        f"  price: number, 2 features, 1 missing, {low:g} to {high:g}",
        f"  day: date, 1 feature, {DAYS[0]:%Y-%m-%d} to {DAYS[-1]:%Y-%m-%d}",
        "  code: left out, such as 'x'",
        "  town: category, 2 features, such as 'Rome'",
        "  case: dropped, such as '0'",
        "  churn: target, such as 'no'",
    ]
