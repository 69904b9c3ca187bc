"""Reports on folders that somebody else prepared: nothing is resolved, waited for, or obeyed."""

import csv
import json
import os
import random
import resource
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from data_files import bounded
from pages import PLOTLY, bilevel_report, run_at
from strangers import ALIASES, SECRET, TEXTS, WORSE, hostile_at
from test_page import Tags

import bilevel_cli
from bilevel_cli.errors import UsageError
from bilevel_cli.records.plain import plain, plain_name
from bilevel_cli.report.read import runs
from bilevel_cli.report.show.formulas import harmless

pytestmark = pytest.mark.skipif(os.name != "posix", reason="FIFOs and links")
HANGS = 60  # seconds after which a report that takes one is taken to wait for ever
EVALS = "step,seconds,acc\n1,1,0.{}\n2,2,0.5\n"


class Said(NamedTuple):
    """What a report said: its exit code, what it printed, and all that it wrote."""

    code: int
    out: str
    err: str
    files: dict[str, str]


Reported = Callable[..., Said]


@pytest.fixture(params=["here", pytest.param("apart", marks=pytest.mark.faults)])
def reported(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Reported:
    """Reports on a folder into all files, in this process, or in one with bounds of its own."""
    monkeypatch.setenv("SECRET_TOKEN", SECRET)
    monkeypatch.setenv("COLUMNS", "200")

    def report(*arguments: str | Path) -> Said:
        written = tmp_path / "written"
        written.mkdir(exist_ok=True)
        names = {"csv": "t.csv", "latex": "t.tex", "html": "t.html"}
        if request.param == "apart":
            names["figure"] = "t.svg"
        asked = [part for option, name in names.items() for part in (f"--{option}", written / name)]
        line = [*map(str, arguments), *map(str, asked)]
        if request.param == "here":
            monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: PLOTLY)
            code, (out, err) = bilevel_report(monkeypatch, *line), capfd.readouterr()
        else:
            found = subprocess.run(
                [sys.executable, "-m", "bilevel_cli.commands.report", *line],
                capture_output=True,
                text=True,
                errors="surrogateescape",
                timeout=60,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30)),
            )
            code, out, err = found.returncode, found.stdout, found.stderr
        return Said(code, out, err, {p.name: p.read_text() for p in written.iterdir()})

    return report


def evaluated_at(folder: Path, number: int = 1) -> Path:
    """A folder that has an eval.csv and Hydra's folder."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / "eval.csv").write_text(EVALS.format(number))
    return folder


def test_no_interpolation_of_a_run_is_resolved(tmp_path: Path, reported: Reported) -> None:
    for number, name in enumerate("ab"):
        config = evaluated_at(tmp_path / "runs" / name, number) / ".hydra" / "config.yaml"
        config.write_text(f'seed: 1\ntag: "{name} ${{oc.env:SECRET_TOKEN}} ${{oc.decode:x}}"\n')
    said = reported(tmp_path / "runs")
    assert said.code == 0
    assert SECRET not in "".join([said.out, said.err, *said.files.values()])
    assert "tag a ${oc.env:SECRET_TOKEN} ${oc.decode:x}" in " ".join(said.out.split())
    assert "tag a ${oc.env:SECRET_TOKEN}" in said.files["t.csv"]
    table = bilevel_cli.load(tmp_path / "runs")
    assert table["tag"].iloc[1] == "b ${oc.env:SECRET_TOKEN} ${oc.decode:x}"


def test_runs_whose_seed_is_an_interpolation_are_none_of_them_left_out(tmp_path: Path) -> None:
    for name in "ab":
        folder = evaluated_at(tmp_path / name)
        (folder / ".hydra" / "config.yaml").write_text("seed: ${hydra:job.num}\n")
    assert [run.seed for run in runs.read([tmp_path])] == [None, None]


@pytest.mark.parametrize("name", ["config", "hydra", "overrides"])
def test_a_bomb_of_yaml_is_not_read(name: str, tmp_path: Path, reported: Reported) -> None:
    folder = evaluated_at(tmp_path / "runs")
    nested = "hydra:\n  runtime:\n    choices:\n      task: *a8\n"
    path = folder / ".hydra" / f"{name}.yaml"
    path.write_text(ALIASES + nested)

    def read() -> None:
        (run,) = runs.read([folder])
        assert len(run.evals) == 2
        assert runs.typed([run]) == [[]]
        assert len([line for line in run.warnings if str(path) in line]) == 1

    deadline = time.monotonic() + HANGS
    bounded(read)()
    assert time.monotonic() < deadline
    said = reported(folder)
    assert (said.code, said.err.count("aliases")) == (0, name != "overrides")


NAMES = ("a\udcff1", "a\udcfe1", "a\\xff1", "a\u202e1", "a\u200b1", "a1", "ä1", "a\n1", "a 1")


def test_names_that_are_no_utf8_are_shown_and_stay_different(
    tmp_path: Path, reported: Reported
) -> None:
    for number, name in enumerate(NAMES):
        evaluated_at(tmp_path / "runs" / name, number)
    said = reported(tmp_path / "runs")
    assert said.code == 0
    shown = {plain_name(name) for name in NAMES}
    assert r"a\xff1" in shown
    assert len(shown) == len(NAMES)
    assert {run.name for run in runs.read([tmp_path / "runs"])} == shown
    assert all(f"<span>{name}</span>" in said.files["t.html"] for name in shown)
    again = reported(tmp_path / "runs")
    assert (again.out, again.files) == (said.out, said.files)


def test_what_is_not_printed_becomes_a_space_or_an_escape() -> None:
    assert all(plain(text).isprintable() for text in TEXTS)
    assert plain("\x1b[31m\u202e\ud800 \n") == r"\x1b[31m\u202e\ud800  "
    assert plain("a" * 20, 10) == "aaaaaaa..."
    # A bound holds for what is shown: an escape has several letters.
    assert len(plain("\u202e" * 300, 100)) == 100


@pytest.mark.faults
@pytest.mark.parametrize("kind", WORSE)
@pytest.mark.parametrize("name", ["manifest.json", "eval.csv", "train.csv", "hydra.yaml"])
def test_whatever_stands_for_a_file_is_told_in_one_line_and_not_waited_for(
    name: str, kind: str, tmp_path: Path, reported: Reported
) -> None:
    told(name, kind, tmp_path, reported)


@pytest.mark.parametrize("kind", WORSE)
def test_a_table_that_is_no_table_is_told_in_one_line(
    kind: str, tmp_path: Path, reported: Reported
) -> None:
    told("eval.csv", kind, tmp_path, reported)


FEW = ("FIFO", "link to a secret", "columns")
SOME = [*FEW, *(pytest.param(k, marks=pytest.mark.faults) for k in WORSE if k not in FEW)]


def told(name: str, kind: str, root: Path, reported: Reported) -> None:
    """Holds a report on a run with one such file, beside a whole run, to one line on stderr."""
    folder = run_at(root / "runs" / "worse")
    run_at(root / "runs" / "whole", seed=1)
    path = folder / ".hydra" / name if name.endswith("yaml") else folder / name
    WORSE[kind](path)
    deadline = time.monotonic() + HANGS
    said = reported(root / "runs")
    assert time.monotonic() < deadline
    assert said.code == 0
    (line,) = [line for line in said.err.splitlines() if not line.startswith("Wrote")]
    assert str(path) in line
    assert len(line) < 400
    assert SECRET not in said.out + said.err + said.files["t.html"]
    assert "2 runs in" in said.out


@pytest.mark.parametrize("kind", ["FIFO", "folder", "socket", "link to a device", "link to itself"])
def test_a_lock_that_is_no_file_is_not_waited_for(kind: str, tmp_path: Path) -> None:
    folder = run_at(tmp_path / "run", status="running")
    (folder / "lock").touch()
    WORSE[kind](folder / "lock")
    (run,) = runs.read([folder])
    assert run.status in ("running", "killed")


@pytest.mark.parametrize("kind", SOME)
def test_a_picture_that_is_no_file_is_a_note_on_the_page(
    kind: str, tmp_path: Path, reported: Reported
) -> None:
    folder = run_at(tmp_path / "run")
    for name in ("distilled.png", "weights.csv", "hyperparameters.csv"):
        WORSE[kind](folder / name)
    said = reported(folder)
    assert said.code == 0
    assert SECRET not in said.files["t.html"]
    assert said.files["t.html"].count("<img") == 0


def test_links_out_of_the_named_folders_are_told_and_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_at(tmp_path / "private" / "run", task={"name": SECRET})
    run_at(tmp_path / "shared" / "run")
    for name, target in (("private", tmp_path / "private"), ("all", Path("/")), ("same", "same")):
        (tmp_path / "shared" / name).symlink_to(target)
    assert bilevel_report(monkeypatch, tmp_path / "shared") == 0
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert "shared/all (a link that leads out), and 1 more, not searched" in line
    assert "1 run in" in said.out
    assert len(runs.read([tmp_path / "shared", tmp_path / "private"])) == 2
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "run").symlink_to(tmp_path / "shared" / "run")
    with pytest.raises(UsageError, match="a link that leads out"):
        runs.read([tmp_path / "links"])
    assert len(runs.read([tmp_path / "links" / "run"])) == 1


@pytest.mark.faults
def test_folders_may_be_nested_deeper_than_python_calls(tmp_path: Path) -> None:
    run_at(tmp_path / "a" / "run")
    deepest = tmp_path / "a"
    for _ in range(1049):
        deepest /= "a"
        deepest.mkdir()
    try:
        assert len(runs.read([tmp_path])) == 1
    finally:
        for _ in range(1049):  # pytest would call itself for each to delete them
            deepest.rmdir()
            deepest = deepest.parent


def test_settings_of_long_names_take_no_gigabytes(tmp_path: Path) -> None:
    settings: dict[str, Any] = {str(number): number for number in range(20_000)}
    for number in range(40):
        settings = {f"{number}{'x' * 10_000}": settings}
    folder = run_at(tmp_path / "run", **settings)
    (run,) = runs.read([folder])
    assert run.settings == {}
    assert "letters; its settings count as unknown" in run.warnings[0]


FORMULAS = ("=1+1", "@SUM(A1)", "+1+1", "-2+3", " =1", "\t=1", "\r=1", "\uff1d1")


def test_no_cell_of_the_csv_is_a_formula(tmp_path: Path, reported: Reported) -> None:
    for number, formula in enumerate(FORMULAS):
        folder = tmp_path / "runs" / str(number)
        settings: dict[str, Any] = {formula: -0.5, "lr": -number}
        run_at(folder, choices={formula: formula}, **settings)
    said = reported(tmp_path / "runs")
    assert said.code == 0
    head, *rows = csv.reader(said.files["t.csv"].splitlines())
    for cell in [*head, *(cell for row in rows for cell in row)]:
        if cell.lstrip().startswith(("=", "+", "-", "@", "\uff1d")):
            float(cell)
    assert "'=1+1" in head
    assert all(harmless(formula) == f"'{plain(formula)}" for formula in FORMULAS)
    assert {harmless(number) for number in ("-0.5", "+1e5", "-0")} == {"-0.5", "+1e5", "-0"}


def test_every_run_that_lacks_files_has_a_place_in_the_csv(
    tmp_path: Path, reported: Reported
) -> None:
    for number, name in enumerate(("eval.csv", "train.csv", "manifest.json", "")):
        folder = run_at(tmp_path / "runs" / str(number), seed=number)
        (folder / name).unlink() if name else None
    WORSE["FIFO"](run_at(tmp_path / "runs" / "4", seed=4) / "eval.csv")
    rows = list(csv.DictReader(reported(tmp_path / "runs").files["t.csv"].splitlines()))
    counted = [(row["n"], row["missing"], row["without a number"]) for row in rows]
    # A run without a manifest is counted as missing, and is in the mean all the same.
    assert sorted(counted) == [("1", "1", "0"), ("2", "0", "2")]


def test_markdown_and_latex_show_a_label_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, label in enumerate(("<b>[x](http://evil)", "[2pt]", "# c_d", "*e*")):
        folder = run_at(tmp_path / "runs" / str(number), choices={"method": label})
        (folder / "eval.csv").write_text("step,seconds,acc|x\n1,1,0.5\n")
    table = tmp_path / "t.tex"
    assert bilevel_report(monkeypatch, tmp_path / "runs", "--markdown", "--latex", table) == 0
    out = capsys.readouterr().out
    assert r"| \<b\>\[x\](http://evil) |" in out
    assert r"| \*e\* |" in out
    assert r"acc\|x" in out
    assert r"| \# c_d |" in out
    assert "\n{[}2pt{]} & " in table.read_text()


def assert_harmless(said: Said) -> None:
    """Holds what a report said to what a reader of a stranger's folder may expect."""
    lines = said.err.splitlines()
    if said.code:
        assert said.code == 2, said.err
        (line,) = [one for one in lines if not one.startswith(("bilevel-report: warning", "Wrote"))]
        assert len(line) <= 400
    assert all(line.startswith(("bilevel-report: ", "Wrote ")) for line in lines), said.err
    for text in (said.out, said.err, *said.files.values()):
        assert SECRET not in text
        odd = {letter for letter in text if unicodedata.category(letter) in ("Cc", "Cf", "Cs")}
        assert odd <= {"\n", "\r"}, (odd, text[:500])
    tags = Tags(said.files.get("t.html", "")).tags
    assert not [one for one in tags if {"onerror", "onmouseover"} & one[1].keys()]
    assert [tag for tag, _ in tags].count("script") in (0, 3)


MANY = [*range(4), *(pytest.param(seed, marks=pytest.mark.faults) for seed in range(4, 300))]


@pytest.mark.parametrize("seed", MANY)
def test_whatever_is_in_a_folder_a_report_ends_well(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    choice = random.Random(seed)
    monkeypatch.setenv("SECRET_TOKEN", SECRET)
    monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: PLOTLY)
    for number in range(choice.randrange(1, 5)):
        name = choice.choice(TEXTS).replace("/", "_").replace("\0", "")[:80]
        name = name.encode(errors="surrogateescape" if "\ud800" not in name else "replace").decode(
            errors="surrogateescape"
        )
        hostile_at(tmp_path / "runs" / f"{number}{name}", choice)
    written = tmp_path / "written"
    written.mkdir()
    line: list[str | Path] = [tmp_path / "runs", "--at", choice.choice(["steps", "end", "seconds"])]
    for option, path in {"csv": "t.csv", "latex": "t.tex", "html": "t.html"}.items():
        line += [f"--{option}", written / path]
    for flag in ("--markdown", "--iqm", "--metric=acc", "--by=method", "--higher"):
        line += [flag] * (choice.random() < 0.15)
    if choice.random() < 0.2:
        line += ["--figure", written / "t.svg"]
    deadline = time.monotonic() + HANGS

    def report() -> None:
        code, (out, err) = bilevel_report(monkeypatch, *line), capfd.readouterr()
        files = {path.name: path.read_text() for path in written.iterdir()}
        assert_harmless(Said(code, out, err, files))

    bounded(report, megabytes=100)()
    assert time.monotonic() < deadline
    json.dumps([run.settings for run in runs.read([tmp_path / "runs"])])
