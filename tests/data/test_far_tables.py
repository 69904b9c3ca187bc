"""Tables of other countries and programs: read as their plain twin, or named, never made texts."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from data_files import message
from own_tables import AMOUNTS, DAYS, LABELS, european, everything, followed, own, table, written
from torch.testing import assert_close

SMALL = [number % 40 / 4 for number in range(60)]  # no column of texts has too many levels


def with_gaps(values: Iterable[object], marker: object, every: int) -> list[object]:
    return [value if row % every else marker for row, value in enumerate(values)]


@pytest.mark.parametrize("every", [2, 5, 20])
@pytest.mark.parametrize("marker", [".", "-", "?", "\\N", "#NV", "#DIV/0!", "unbekannt", "$-"])
def test_markers_are_proposed_as_missing_however_often_they_are_there(
    marker: str, every: int, tmp_path: Path
) -> None:
    if (marker, every) == ("unbekannt", 2):
        every = 3  # a word that half of the rows have may be a level
    twin = everything(own(written(tmp_path, table(with_gaps(SMALL, "", every), ","), "plain.csv")))
    data, said = followed(written(tmp_path, table(with_gaps(SMALL, marker, every), ",")))
    assert torch.equal(everything(data), twin)
    assert f"'price' looks like numbers but for {marker!r}" in said[0]


@pytest.mark.parametrize(
    ("form", "marker"), [("%Y-%m-%d", "0000-00-00"), ("%d.%m.%Y", "00.00.0000")]
)
def test_the_date_without_a_day_is_proposed_as_missing(
    form: str, marker: str, tmp_path: Path
) -> None:
    plain = with_gaps(DAYS.strftime("%Y-%m-%d"), "", 4)
    twin = everything(own(written(tmp_path, table(plain, ","), "plain.csv")))
    dates = with_gaps(DAYS.strftime(form), marker, 4)
    data, said = followed(written(tmp_path, table(dates, ",")))
    assert_close(everything(data), twin, atol=1e-12, rtol=0)
    assert f"but for {marker!r}" in said[0]


@pytest.mark.parametrize(
    ("form", "order"),
    [
        ("%d%b%Y", "day first"),
        ("%d%b%Y:%H:%M:%S", "day first"),
        ("%Y. %m. %d.", "year first"),
        ("%Y\u5e74%m\u6708%d\u65e5", "year first"),
        ("%Y\ub144 %m\uc6d4 %d\uc77c", "year first"),
    ],
    ids=["SAS", "SAS with a time", "Hungary", "China and Japan", "Korea"],
)
def test_dates_of_far_countries_are_those_of_the_plain_twin_after_one_message(
    form: str, order: str, tmp_path: Path
) -> None:
    twin = everything(own(written(tmp_path, table(DAYS.strftime("%Y-%m-%d"), ","), "plain.csv")))
    spelled = DAYS.strftime(form)
    data, said = followed(written(tmp_path, table(spelled.str.upper())))
    assert_close(everything(data), twin, atol=1e-12, rtol=0)
    assert f"'price' looks like dates, {order}" in said[0]


@pytest.mark.parametrize("unit", ["\u5186", "\u0433\u0440\u043d", "\u0440\u0443\u0431."])
def test_units_may_be_in_letters_of_any_script(unit: str, tmp_path: Path) -> None:
    twin = everything(own(written(tmp_path, table(AMOUNTS, ","), "plain.csv")))
    spelled = [f"{european(value)} {unit}" for value in AMOUNTS]
    data, said = followed(written(tmp_path, table(spelled)))
    assert torch.equal(everything(data), twin)
    assert f"the sign {unit!r}" in said[0]


MIXED: dict[str, tuple[list[str], str]] = {
    "dates of two programs": (
        [f"{day:%Y-%m-%d}" if row % 2 else f"{day:%d.%m.%Y}" for row, day in enumerate(DAYS[:20])],
        "'price' has dates of several kinds, with '",
    ),
    "dates of two countries": (
        [f"{row % 12 + 1}/28/2024" if row % 2 else f"28/{row % 12 + 1}/2024" for row in range(20)],
        "'price' has dates of several kinds, with '",
    ),
    "numbers of two countries": (
        [european(value) if row % 2 else f"{value:,.2f}" for row, value in enumerate(AMOUNTS[:20])],
        "'price' has numbers of several kinds, with '",
    ),
    "months in German": (
        [f"{row % 28 + 1}. M\u00e4rz 20{row % 20:02}" for row in range(20)],
        "'price' has dates in words that are not read, '",
    ),
    "months in Spanish": (
        [f"{row % 28 + 1} de enero de 20{row % 20:02}" for row in range(20)],
        "'price' has dates in words that are not read, '",
    ),
    "Arabic digits": (
        [
            str(row).translate({48 + digit: 0x660 + digit for digit in range(10)})
            for row in range(20)
        ],
        "'price' has numbers in other digits than 0 to 9, '",
    ),
    "days of the week": (
        [f"{day:%a %b %d %H:%M:%S %Y}" for day in DAYS[:20]],
        "'price' has dates in words that are not read, '",
    ),
}


@pytest.mark.parametrize("kind", MIXED)
def test_what_no_setting_reads_is_named_and_no_category_unasked(kind: str, tmp_path: Path) -> None:
    values, reason = MIXED[kind]
    path = written(tmp_path, table(values * 3))
    text = message(own(path, separator=";").read)
    assert reason in text
    assert text.endswith('Correct the file, or add "data.text=[price]"')
    assert "1 of kind category" in own(path, separator=";", text=["price"]).statement


@pytest.mark.parametrize(
    "values",
    [["-", "+", "++"], ["low", "1", "2"], ["Elm Street 12, 2010 Rome", "Oak Lane 3, 1999 Bonn"]],
    ids=str,
)
def test_levels_with_dashes_words_or_years_stay_categories(
    values: list[str], tmp_path: Path
) -> None:
    data = own(written(tmp_path, table((values * 60)[:60])), separator=";")
    assert "1 of kind category" in data.statement


def test_classes_may_be_called_na_and_none_and_nothing_else(tmp_path: Path) -> None:
    frame = pd.DataFrame({"price": AMOUNTS, "churn": LABELS})
    named = frame.assign(churn=frame.churn.map({"no": "NA", "yes": "None"}))
    data, said = followed(written(tmp_path, named))
    assert "add data.keep_default_na=false" in said[0]
    twin: Any = own(written(tmp_path, frame, "plain.csv"))
    assert torch.equal(everything(data), everything(twin))
    assert data.class_names == ["NA", "None"]
    assert torch.equal(data.read()[0].y, twin.read()[0].y)
