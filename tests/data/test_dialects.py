"""Numbers and dates as people write them: read as their plain twin, once messages are followed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from data_files import message
from own_tables import (
    AMOUNTS,
    DAYS,
    LABELS,
    european,
    everything,
    followed,
    own,
    proposed,
    settings,
    table,
    written,
)
from torch.testing import assert_close

from bilevel_cli.data.table.name import override

Spelling = Callable[[float], str]


NUMBERS: list[tuple[str, str, Spelling, str]] = [
    ("decimal comma", ";", lambda v: european(v, ""), "a decimal comma"),
    ("thousands points", ";", european, "thousands points"),
    ("quoted, between commas", ",", european, "thousands points"),
    ("tabs", "\t", european, "'\\t' reads 2 columns"),
    ("bars", "|", european, "'|' reads 2 columns"),
    ("American", ",", lambda v: f"{v:,.2f}", "thousands commas"),
    ("Swiss", ";", lambda v: f"{v:,.2f}".replace(",", "'"), "thousands apostrophes"),
    ("Swiss, typeset", ";", lambda v: f"{v:,.2f}".replace(",", "\u2019"), "apostrophes"),
    ("French", ";", lambda v: european(v, "\u202f"), "thousands spaces"),
    ("French, wide", ";", lambda v: european(v, "\u00a0"), "thousands spaces"),
    ("Swedish", ";", lambda v: european(v, " ") + " kr", "the sign 'kr'"),
    ("euros", ";", lambda v: european(v) + " €", "the sign '€'"),
    ("euros before", ";", lambda v: "€ " + european(v), "the sign '€'"),
    ("pounds", ",", lambda v: f"£{v:.2f}".replace("£-", "-£"), "the sign '£'"),
    ("dollars", ",", lambda v: f"${v:,.2f}" if v > 0 else f"(${-v:,.2f})", "parentheses"),
    ("per cent", ";", lambda v: f"{v:.2f}%", "the sign '%'"),
    ("units", ";", lambda v: f"{v:.2f} km/h", "the sign 'km/h'"),
    ("minus signs", ";", lambda v: f"{v:.2f}".replace("-", "\u2212"), "long minus signs"),
    ("dashes", ";", lambda v: f"{v:.2f}".replace("-", "\u2013 "), "long minus signs"),
    ("accounts", ";", lambda v: european(abs(v)) + ("-" if v < 0 else ""), "a minus at the end"),
    ("accounts in euros", ";", lambda v: european(abs(v)) + ("- €" if v < 0 else " €"), "'€'"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("separator", "spell", "reason"), [one[1:] for one in NUMBERS], ids=[one[0] for one in NUMBERS]
)
def test_numbers_are_those_of_the_plain_twin_after_one_message(
    separator: str, spell: Spelling, reason: str, tmp_path: Path
) -> None:
    twin = everything(own(written(tmp_path, table(AMOUNTS, ","), "plain.csv")))
    content = table([spell(value) for value in AMOUNTS], separator)
    data, said = followed(written(tmp_path, content))
    assert torch.equal(everything(data), twin)
    assert reason in said[0]
    assert "1 of kind number" in data.statement


DATES: list[tuple[str, str]] = [
    ("%d.%m.%Y", "day first"),
    ("%d/%m/%Y", "day first"),
    ("%d-%m-%y", "day first"),
    ("%d.%m.%Y %H:%M", "day first"),
    ("%d-%b-%Y", "day first"),
    ("%d %B %Y", "day first"),
    ("%m/%d/%Y", "month first"),
    ("%m/%d/%Y %I:%M %p", "month first"),
    ("%b %d, %Y", "month first"),
    ("%Y/%m/%d", "year first"),
    ("%Y.%m.%d", "year first"),
]


@pytest.mark.parametrize(("form", "order"), DATES)
def test_dates_are_those_of_the_plain_twin_after_one_message(
    form: str, order: str, tmp_path: Path
) -> None:
    twin = everything(own(written(tmp_path, table(DAYS.strftime("%Y-%m-%d"), ","), "plain.csv")))
    data, said = followed(written(tmp_path, table(DAYS.strftime(form))))
    assert_close(everything(data), twin, atol=1e-12, rtol=0)
    assert f"'price' looks like dates, {order}" in said[0]


@pytest.mark.parametrize(
    ("values", "first", "second"),
    [
        (["1,234", "2,500"], ("decimal=','", "1.234"), ("thousands=','", "1234")),
        (["03/04/2024", "05/06/2024"], ("day_first", "2024-04-03"), ("month_first", "2024-03-04")),
    ],
)  # fmt: skip
def test_what_may_mean_two_things_is_told_with_both(
    values: list[str], first: tuple[str, str], second: tuple[str, str], tmp_path: Path
) -> None:
    path = written(tmp_path, table(values * 30))
    text = message(own(path, separator=";").read)
    assert f"{values[0]!r} in 'price' is {first[1]} with" in text
    for option, meaning in (first, second):
        assert meaning in text
        assert option in text
    assert "Add one of these" in text


def test_another_column_decides_what_a_point_or_comma_means(tmp_path: Path) -> None:
    whole = [f"{900 + 7 * row:,}" for row in range(60)]
    frame = pd.DataFrame({"price": map(european, AMOUNTS), "size": whole, "churn": LABELS})
    frame["size"] = frame["size"].str.replace(",", ".")
    path = written(tmp_path, frame.to_csv(index=False, sep=";"))
    data, _ = followed(path)
    plain = pd.DataFrame({"price": AMOUNTS, "size": 900 + 7 * np.arange(60), "churn": LABELS})
    assert torch.equal(everything(data), everything(own(written(tmp_path, plain, "plain.csv"))))
    # With a decimal comma alone, the sizes could be 1.007 or 1007.
    frame["price"] = [european(value, "") for value in AMOUNTS]
    path = written(tmp_path, frame.to_csv(index=False, sep=";"))
    text = message(own(path, separator=";").read)
    assert "'1.005' in 'size' is 1005 with \"data.thousands='.'\" or 1.005 with" in text
    assert "Add one of these and \"data.decimal=','\"" in text
    small = plain["size"].where(plain["size"] < 1000, plain["size"] / 1000)
    for thousands, size in ((".", plain["size"]), ("", small)):
        read = own(path, separator=";", decimal=",", thousands=thousands)
        twin = own(written(tmp_path, plain.assign(size=size), "plain.csv"))
        assert_close(everything(read), everything(twin), atol=1e-12, rtol=0)


def test_points_of_thousands_alone_are_told_where_no_program_writes_decimals_so(
    tmp_path: Path,
) -> None:
    whole = [f"{900 + 50 * row:,}".replace(",", ".") for row in range(60)]
    path = written(tmp_path, table(whole))
    text = message(own(path, separator=";").read)
    proposal = "\"data.decimal=','\" \"data.thousands='.'\""
    assert f"'1.000' in 'price' is 1000 with {proposal} or 1.000 with" in text
    read = own(path, separator=";", decimal=",", thousands=".").read()[0]
    assert read.x[:, 0].tolist() == [900 + 50 * row for row in range(60)]
    # A program that writes three decimals writes them all; one that writes 7 writes 12.5.
    for plain in ([f"{3 * row}.500" for row in range(60)], [7, 12.5, 1.125] * 20):
        assert "number" in own(written(tmp_path, table(plain)), separator=";").statement


def test_numbers_with_a_point_stay_what_they_are_beside_others(tmp_path: Path) -> None:
    places = pd.DataFrame({"price": AMOUNTS, "latitude": 50 + AMOUNTS / 1e5, "churn": LABELS})
    twin = everything(own(written(tmp_path, places, "plain.csv")))
    content = places.assign(price=list(map(european, AMOUNTS))).to_csv(index=False, sep=";")
    data, _ = followed(written(tmp_path, content))
    assert torch.equal(everything(data), twin)


@pytest.mark.parametrize(
    "values",
    [
        [f"{row % 7:04}" for row in range(59)] + ["A014"],
        [f"+49 170 {100 + row % 9}" for row in range(60)],
        [f"612 345 {600 + row % 9}" for row in range(60)],
        [f"{row % 9}10 00" for row in range(60)],
        [f"0{row % 9} 23 45" for row in range(60)],
        ["18-25", "26-35"] * 30,
        ["5A", "6B", "7C"] * 20,
        ["1.2.3", "1.10.2"] * 30,
        ["192.168.1.1", "192.168.1.20"] * 30,
        ["5 kg", "300 g"] * 30,
        ["8:30", "12:15"] * 30,
    ],
    ids=lambda values: str(values[0]),
)
def test_codes_and_the_like_stay_categories(values: list[str], tmp_path: Path) -> None:
    data = own(written(tmp_path, table(values, ",")))
    assert "1 of kind category" in data.statement


def test_texts_among_numbers_are_proposed_as_missing_or_named(tmp_path: Path) -> None:
    texts: list[object] = list(AMOUNTS)
    for row, text in {3: "n.a.", 9: "-", 40: " "}.items():
        texts[row] = text
    data, said = followed(written(tmp_path, table(texts, ",")))
    assert "'price' looks like numbers but for 'n.a.', '-', ' '" in said[0]
    assert everything(data)[:, 1].nonzero()[:, 0].tolist() == [3, 9, 40]
    path = written(tmp_path, table([*AMOUNTS[:59], "1O0"], ","))
    text = message(own(path).read)
    assert "'price' has numbers but for '1O0' in row 59. Correct the file, or add" in text
    counts = written(tmp_path, table([*"012" * 19, "3+", "0", "1"], ","))
    data, _ = followed(counts)
    assert "1 of kind category" in data.statement
    assert everything(data).shape == (60, 4)


def test_signs_that_do_not_go_together_are_named(tmp_path: Path) -> None:
    for spelled, signs in (
        ([f"{v} {'€$'[row % 2]}" for row, v in enumerate(AMOUNTS)], "'$' and '€'"),
        ([f"{v}{'%' * (row % 2)}" for row, v in enumerate(AMOUNTS)], "'%' and none"),
    ):
        text = message(own(written(tmp_path, table(spelled, ","))).read)
        assert "'price' has numbers of several kinds, with" in text
        assert set(signs.split(" and ")) <= set(text.replace(".", "").replace(",", "").split())


@pytest.mark.parametrize(
    ("encoding", "proposal"),
    [
        ("latin-1", "cp1252"),
        ("cp1252", "cp1252"),
        ("utf-16", "utf-16"),
        ("utf-16-le", "utf-16-le"),
        ("utf-16-be", "utf-16-be"),
        ("utf-32", "utf-32"),
    ],
)
def test_an_encoding_is_proposed_with_a_word_that_it_reads(
    encoding: str, proposal: str, tmp_path: Path
) -> None:
    towns = ["Köln", "Zürich"] * 30
    twin = everything(own(written(tmp_path, table(towns, ","), "plain.csv")))
    data, said = followed(written(tmp_path, table(towns, ",", encoding)))
    assert f"{proposal} reads 'Köln'. Add data.encoding={proposal}" in said[0]
    assert torch.equal(everything(data), twin)


def test_what_excel_writes_above_a_table_is_named(tmp_path: Path) -> None:
    content = b"sep=;\r\n" + table(AMOUNTS)
    assert "line 1 is 'sep=;'" in message(own(written(tmp_path, content)).read)


def test_a_decimal_sign_that_is_the_separator_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, table(AMOUNTS, ","))
    text = message(own(path, decimal=",").read)
    assert "a decimal sign other than the separator" in text


@pytest.mark.parametrize(
    "given",
    [
        {"encoding": "utf-9"},
        {"encoding": "zip"},
        {"decimal": ";"},
        {"thousands": "-"},
        {"decimal": ",", "thousands": ","},
        {"signs": ["-"]},
        {"signs": "€"},
        {"negatives": ["red"]},
        {"dates": "american"},
        {"text": "price"},
    ],
    ids=str,
)
def test_a_way_of_writing_that_there_is_not_is_refused_before_anything_is_read(
    given: dict[str, Any], tmp_path: Path
) -> None:
    assert f"data.{list(given)[-1]}" in message(lambda: own(tmp_path, **given))


@pytest.mark.parametrize(
    "value",
    [",", "'", '"', "\u202f", "\t", ("€", "$", "kr."), ("a b", "null", "c,d"), ("\\", "`"), False],
    ids=repr,
)  # fmt: skip
def test_a_proposal_survives_a_shell_and_hydra(value: Any) -> None:
    (found,) = settings(proposed(f"Add {override('signs', value)}")).values()
    assert found == {"\t": "\\t"}.get(value, list(value) if isinstance(value, tuple) else value)
