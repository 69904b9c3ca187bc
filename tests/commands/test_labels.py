"""bilevel-labels: the count, the rows and the files, and what it refuses."""

import csv
import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from commands import exit_code
from omegaconf import DictConfig

from bilevel_cli.commands import labels
from bilevel_cli.data.table.dialect import PLAIN
from bilevel_cli.labels import forests
from bilevel_cli.labels.examine import judge
from bilevel_cli.labels.own_file import Wanted, read
from bilevel_cli.labels.rows_page import html
from bilevel_cli.labels.show_rows import Suspect, notes, table
from bilevel_cli.runs import entry

Command = Callable[..., int]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs the command in a folder of its own and returns its exit code."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> int:
        torch.set_default_dtype(torch.float32)
        with torch.enable_grad():
            return exit_code("bilevel-labels", labels.main, monkeypatch, *arguments)

    return run


def customers(count: int = 200, wrong: int = 16) -> tuple[pd.DataFrame, np.ndarray]:
    """Customers who leave by two columns, and which of their labels are wrong."""
    random = np.random.default_rng(0)
    age, plan = random.normal(size=count), np.array(["a", "b"])[random.integers(0, 2, count)]
    leaves = 3 * age + 2 * (plan == "b") - 1 > 0
    flag = np.zeros(count, dtype=bool)
    flag[random.choice(count, wrong, replace=False)] = True
    frame = pd.DataFrame({"code": [f"{i:05d}" for i in range(count)], "age": age.round(3)})
    frame["plan"], frame["note"] = plan, '<b>"hi", he said</b>'
    frame["churn"] = np.where(leaves ^ flag, "yes", "no")
    return frame, flag


def written(frame: pd.DataFrame, name: str = "my.csv", **how: object) -> str:
    frame.to_csv(name, index=False, **how)  # type: ignore[call-overload]  # of pandas, by keyword
    return name


def test_flipped_labels_are_named_and_the_file_keeps_every_value(
    command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = {"trees": lambda seed: forests.random_forest(seed).set_params(n_estimators=20)}
    monkeypatch.setattr(forests, "KINDS", quick)
    whole = entry.run

    def short(config: DictConfig, *given: Any) -> float | None:
        config.outer_steps, config.inner_steps = 4, 40
        return whole(config, *given)

    monkeypatch.setattr(entry, "run", short)
    frame, flag = customers()
    frame.loc[3, "plan"] = None
    frame.insert(0, "", range(len(frame)))  # as pandas writes its index
    name = written(frame)
    options = [
        "--folds",
        "3",
        "--id",
        "code",
        "--top",
        "3",
        "--out",
        "checked.csv",
        "--html",
        "page.html",
    ]
    assert command(name, "--target", "churn", *options) == 0
    shown = capsys.readouterr()
    assert "of 200 labels in 'churn' are probably wrong (95 % interval:" in shown.out
    assert shown.out.count("age=") == 3
    assert "Traceback" not in shown.err

    with Path(name).open(newline="") as before, Path("checked.csv").open(newline="") as after:
        given, found = list(csv.reader(before)), list(csv.reader(after))
    added = ["label_suspect", "suggested_label", "confidence", "rank"]
    assert found[0] == [*given[0], *added]
    assert [row[: len(given[0])] for row in found] == given

    checked = pd.read_csv("checked.csv")
    assert sorted(checked["rank"]) == list(range(1, 201))
    ranked = checked.sort_values("rank")
    assert (ranked["confidence"].diff().dropna() <= 1e-4).all()  # as rounded in the file
    assert checked.label_suspect.sum() == (checked["rank"] <= checked.label_suspect.sum()).sum()
    assert (checked.suggested_label != checked.churn).all()
    # A rule without noise of its own: most of the 16 are within the first 20.
    assert flag[ranked.index[:20]].sum() >= 12

    page = Path("page.html").read_text()
    assert "<b>&quot;hi" not in page
    assert "&lt;b&gt;&quot;hi&quot;, he said&lt;/b&gt;" in page
    runs = list(Path("outputs/labels").iterdir())
    assert len(runs) == 1
    noise = json.loads((runs[0] / "manifest.json").read_text())["settings"]["task"]["noise"]
    assert noise == {"_target_": "bilevel_cli.tasks.reweighting.noise.NoNoise"}


def test_a_rare_class_is_named_and_no_suspect(tmp_path: Path) -> None:
    frame, _ = customers()
    frame.loc[[5, 77], "churn"] = "died"
    path = tmp_path / "my.csv"
    frame.to_csv(path, index=False)
    assert read(Wanted(path, "churn", "code", ("note",), PLAIN, 3, 0)).rare == {"died": 2}

    names = np.array(["died", "no", "yes"], dtype=object)
    given = pd.Categorical(frame.churn, list(names)).codes.astype(np.int64)
    random = np.random.default_rng(0)
    opinion = random.dirichlet([0.3, 1, 1], len(frame))
    finding = judge({"one": opinion}, given, names, np.array([False, True, True]))
    rare = finding.columns.loc[[5, 77]]
    assert (rare.label_suspect == 0).all()
    assert rare[["confidence", "rank"]].isna().all(axis=None)
    assert finding.rows == 198
    assert "died" not in set(finding.columns.suggested_label)


class Text(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_nothing_that_a_table_holds_becomes_markup() -> None:
    bad = "</style><script>alert(1)</script>$css"
    page = html(bad, [bad], [Suspect(1, bad, bad, bad, 0.9, {bad: bad})], bad)
    found = Text(page)
    assert "script" not in found.tags
    assert found.text.count("<script>") >= 8
    assert "http://" not in page
    assert "https://" not in page


def test_a_terminal_gets_no_control_character_and_no_line_that_is_too_long() -> None:
    contents = {f"column {i}": "\x1b[2Jx" + "y" * 50 for i in range(9)}
    text = table([Suspect(1, "7", "a", "b", 0.9, contents)], 80)
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80


def few(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.head(10)


def amounts(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(churn=np.arange(len(frame)) * 1.5)


def one(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(churn="no")


def holes(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(churn=frame.churn.where(frame.index > 2))


def rare(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(churn=np.where(frame.index < 3, "yes", "no"))


def added(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(rank=1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (few, ["at least 50 rows", "got 10"]),
        (amounts, ["200 different numbers", "amount"]),
        (one, ["two classes", "'no' alone"]),
        (holes, ["a label in every row", "3 rows", "0, 1, 2"]),
        (rare, ["--folds=5", "'yes' in 3"]),
        (added, ["'rank'", "Rename"]),
    ],
)
def test_a_table_of_which_nothing_can_be_said_is_refused_in_one_line(
    change: Callable[[pd.DataFrame], pd.DataFrame],
    words: list[str],
    command: Command,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = written(change(customers()[0]))
    assert command(name, "--target", "churn") == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert all(word in message for word in ["bilevel-labels: ", *words])
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["my.csv", "--target", "chrun"], ["Did you mean 'churn'"]),
        (["my.csv", "--target", "churn", "--id", "cod"], ["--id", "Did you mean 'code'"]),
        (["my.csv", "--target", "churn", "--drop", "agee"], ["--drop", "'age'"]),
        (["my.csv", "--target", "churn", "--text", "agee"], ["--text", "'age'"]),
        (["my.csv", "--target", "churn", "--decimal", ";"], ["'.' or ','", "--decimal"]),
        (["none.csv", "--target", "churn"], ["none.csv"]),
        (["empty.csv", "--target", "churn"], ["empty"]),
        (["latin.csv", "--target", "churn"], ["line 2 is not UTF-8", "--encoding=cp1252"]),
        (["ragged.csv", "--target", "churn"], ["line 3 has 3 fields"]),
        (["semicolons.csv", "--target", "churn"], ["one column alone", "'--separator=;'"]),
        (["my.csv", "--target", "churn", "--out", "my.csv"], ["another file"]),
        (["my.csv", "--target", "churn", "--out", "empty.csv"], ["--force"]),
        (["my.csv", "--target", "churn", "--html", "nowhere/page.html"], ["folder"]),
        (["my.csv", "--target", "churn", "--folds", "1"], ["--folds", "from 2"]),
        (["my.csv", "--target", "churn", "--separator", "ab"], ["one character"]),
    ],
)
def test_a_wrong_option_or_file_is_refused_in_one_line(
    arguments: list[str], words: list[str], command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    frame, _ = customers()
    written(frame)
    written(frame.drop(columns="note"), "semicolons.csv", sep=";")
    Path("empty.csv").write_text("")
    Path("latin.csv").write_bytes("a,churn\n\xe9,no\n".encode("latin-1"))
    Path("ragged.csv").write_text("a,churn\n1,no\n1,2,3\n")
    assert command(*arguments) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert all(word in message for word in words)


def test_a_column_of_many_texts_is_left_out_and_named(tmp_path: Path) -> None:
    frame, _ = customers()
    path = tmp_path / "my.csv"
    frame.assign(email=[f"x{i}@y" for i in range(200)]).to_csv(path, index=False)
    own = read(Wanted(path, "churn", None, (), PLAIN, 5, 0))
    assert own.left_out == {"email": "200 different texts"}


def test_classes_that_differ_in_case_alone_are_said(tmp_path: Path) -> None:
    frame, _ = customers()
    frame.loc[::4, "churn"] = frame.churn[::4].str.upper()
    path = tmp_path / "my.csv"
    frame.to_csv(path, index=False)
    own = read(Wanted(path, "churn", None, (), PLAIN, 5, 0))
    names = np.unique(frame.churn.to_numpy(object))
    given = pd.Categorical(frame.churn, list(names)).codes.astype(np.int64)
    opinion = np.random.default_rng(0).dirichlet(np.ones(len(names)), len(frame))
    said = notes(own, judge({"one": opinion}, given, names, np.ones(len(names), bool)))
    assert "Classes 'NO' and 'no' differ in case alone." in said
