"""`make verify-gpu`: how sections are run, what is told of them, and the dry run."""

import itertools
import json
import math
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from commands import exit_code

from benchmarks.verify import (
    __main__,
    page,
    requirements,
    runs,
    schedule,
    sections,
    verification,
    worker,
)
from benchmarks.verify.rows import FAILED, NOT_SHOWN, PASSED, REFUSED, Figure, Given, Row
from benchmarks.verify.schedule import OUT_OF_TIME, Outcome
from benchmarks.verify.sections import (
    benchmark_rows,
    captures,
    marked_tests,
    memory_budget,
    precision,
)

ROOT = Path(__file__).parents[2]
NAME = "NVIDIA Imaginary 9000"


@dataclass
class Stub:
    """A section that does what it is told."""

    TITLE: str = "A section"
    ABOUT: str = "What it is."
    ORDER: int = 0
    SECONDS: float = 60.0
    ALONE: bool = False
    HARDWARE: bool = False
    error: Exception | None = None

    def items(self, given: Given) -> Sequence[str]:
        return ["one", "two", "three"]

    def check(self, given: Given, item: str) -> Row:
        if self.error:
            raise self.error
        return Row(item, PASSED, figures={"seconds": 1.0})

    def summary(self, rows: Sequence[Row]) -> str:
        return ""


@dataclass
class Empty(Stub):
    """A section for which nothing was left."""

    def items(self, given: Given) -> Sequence[str]:
        return []


@dataclass
class Late(Stub):
    """A section whose time is up as soon as its second item has been begun."""

    begun: Path = Path()

    def __getattribute__(self, name: str) -> object:
        if name == "SECONDS":
            return 0.0 if self.begun.exists() else 60.0
        return super().__getattribute__(name)


def stub(name: str) -> sections.Section:
    return Stub(TITLE=name)


def given_for(tmp_path: Path, simulated: bool = False, jobs: int = 2) -> Given:
    return Given(tmp_path, simulated, jobs=jobs)


def carried_out(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sections: dict[str, Stub],
    programs: dict[str, str],
    seconds: float = math.inf,
) -> dict[str, Outcome]:
    """The outcomes of sections whose processes run a few lines instead of the worker."""
    begin = subprocess.Popen

    def instead(command: list[str], **how: object) -> "subprocess.Popen[bytes]":
        program = f"{LEDGER.format(root=str(ROOT))}\n{programs[command[3]]}"
        return begin([sys.executable, "-c", program, *command[3:]], **how)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "Popen", instead)
    return schedule.carry_out(given_for(tmp_path), sections, seconds, lambda name, outcome: None)


# What a process has at hand: the ledger of its section.
LEDGER = """
import json, os, sys, time
sys.path.insert(0, {root!r})
from benchmarks.verify.rows import Ledger, Row
from pathlib import Path
name, values = sys.argv[1:]
folder = Path(json.loads(values)["out"]) / "details" / "rows" / name
ledger = Ledger(folder, ["one", "two", "three"])
"""
WELL = """
while (item := ledger.claim()) is not None:
    ledger.write(Row(item, "passed"))
"""
SLOW = """
time.sleep(0.4)
while (item := ledger.claim()) is not None:
    ledger.write(Row(item, "passed"))
"""
CRASHES = """
while (item := ledger.claim()) is not None:
    if item == "two":
        print("the device is gone", file=sys.stderr, flush=True)
        os.kill(os.getpid(), 9)
    ledger.write(Row(item, "passed"))
"""
BROKEN = """
raise ImportError("no torch")
"""
HANGS = """
ledger.write(Row(ledger.claim(), "passed"))
if ledger.claim() == "two":
    time.sleep(60)
"""


# --- how sections are run -------------------------------------------------------------------------


def test_a_process_that_crashes_takes_one_item_with_it_and_a_slow_one_says_how_far_it_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = given_for(tmp_path).ledger("hangs", []).folder / "1.claimed"
    stubs = {"well": Stub(), "crashes": Stub(), "hangs": Late(begun=second)}
    stubs["broken"], stubs["empty"] = Stub(), Empty()
    programs = {"well": WELL, "crashes": CRASHES, "hangs": HANGS, "broken": BROKEN}
    found = carried_out(tmp_path, monkeypatch, stubs, programs, seconds=30)
    assert found["well"].state == PASSED
    assert [row.state for row in found["well"].rows] == [PASSED] * 3
    crashed = {row.item: row for row in found["crashes"].rows}
    assert found["crashes"].state == FAILED
    assert [crashed[item].state for item in ("one", "three")] == [PASSED, PASSED]
    assert crashed["two"].told.endswith("killed by SIGKILL; the device is gone")
    assert (found["empty"].state, found["empty"].told) == (
        FAILED,
        "ValueError: There is nothing to check.",
    )
    broken = found["broken"]
    assert (broken.state, broken.rows) == (FAILED, [])
    assert broken.told == "3 were not begun: exit code 1; ImportError: no torch"
    late = found["hangs"]
    assert (late.state, [row.item for row in late.rows]) == (OUT_OF_TIME, ["one"])
    assert late.told.startswith("It came to 1 of 3")


@pytest.mark.parametrize("seconds", [54000.0, 18.0])
def test_the_seconds_of_the_whole_are_shared_among_the_sections(
    seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, measures = Stub(SECONDS=240.0), Stub(SECONDS=300.0, ALONE=True)
    if seconds > schedule.SECONDS:
        slow.SECONDS = 0.4  # which it takes for itself: it needs its part of what is there
    stubs = {"slow": slow, "other": Stub(SECONDS=240.0), "measures": measures}
    programs = {"slow": SLOW, "other": WELL, "measures": WELL}
    found = carried_out(tmp_path, monkeypatch, stubs, programs, seconds)
    assert {name: one.state for name, one in found.items()} == dict.fromkeys(stubs, PASSED)


def test_no_item_is_claimed_twice(tmp_path: Path) -> None:
    ledgers = [given_for(tmp_path).ledger("x", ["a", "b", "c"]) for _ in range(2)]
    claims = [ledger.claim() for _, ledger in itertools.product(range(2), ledgers)]
    assert claims == ["a", "b", "c", None]
    assert ledgers[0].begun() == ["a", "b", "c"]
    ledgers[1].write(Row("b", PASSED, "well", {"x": 1.5}))
    assert ledgers[0].begun() == ["a", "c"]
    assert ledgers[0].rows() == [Row("b", PASSED, "well", {"x": 1.5})]


def test_what_a_check_raises_is_told_and_a_simulated_device_shows_no_figure_of_hardware(
    tmp_path: Path,
) -> None:
    real, dry = given_for(tmp_path), given_for(tmp_path, simulated=True)
    broken, hardware = Stub(error=RuntimeError("no\nmore")), Stub(HARDWARE=True)
    assert worker.checked(broken, real, "one") == Row("one", FAILED, "RuntimeError: no")
    assert worker.checked(hardware, real, "one").figures == {"seconds": 1.0}
    shown = worker.checked(hardware, dry, "one")
    assert (shown.state, shown.figures) == (NOT_SHOWN, {})
    failing = Stub(HARDWARE=True, error=ValueError("x"))
    assert worker.checked(failing, dry, "one").state == FAILED


@pytest.mark.parametrize(
    ("states", "code"),
    [([PASSED, NOT_SHOWN], 0), ([PASSED, FAILED], 1), ([OUT_OF_TIME, PASSED], 1)],
)
def test_a_section_that_failed_is_told_and_the_exit_code_is_1(
    states: list[str],
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = ["versions", "other"]

    def outcomes(given: Given, loaded: object, seconds: float, tell: schedule.Tell) -> None:
        for name, state in zip(names, states, strict=True):
            tell(name, Outcome(state, [Row("x", state, figures={"GPU": NAME})], 2, 3.0, "Told."))

    monkeypatch.setattr(verification, "carry_out", outcomes)
    monkeypatch.setattr(sections, "names", lambda: names)
    monkeypatch.setattr(sections, "load", stub)
    out = tmp_path / "out"
    assert verification.verify(out, False, (), ((), ()), 1, 1.0) == code
    text = (out / page.PAGE).read_text()
    assert text.startswith(f"# The GPU path on {NAME}\n")
    bad = [name for name, s in zip(names, states, strict=True) if s in (FAILED, OUT_OF_TIME)]
    expected = f"Not verified: {'; '.join(bad)}." if bad else "All sections passed."
    assert f"**{expected}**" in text
    assert expected in capsys.readouterr().out


def test_a_folder_of_others_and_an_unknown_section_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(ValueError, match=r"needs an empty folder .* --out"):
        verification.verify(tmp_path, False, (), ((), ()), 1, 1.0)
    with pytest.raises(ValueError, match=r"has the sections .*versions.* got --only nothing\."):
        verification.verify(tmp_path / "new", False, ("nothing",), ((), ()), 1, 1.0)


# --- what is told of them -------------------------------------------------------------------------


def report(simulated: bool) -> dict[str, object]:
    figures: dict[str, Figure] = {"GPU": "simulated, none" if simulated else NAME, "cores": 16}
    rows = [Row("a x b", FAILED, "It | waits.", {"gap": 1.25e-10}), Row("c", REFUSED, "No.")]
    loaded = {"versions": stub("Versions"), "pairs": stub("Pairs"), "later": stub("Later")}
    found = {
        "versions": Outcome(PASSED, [Row("this machine", PASSED, figures=figures)], 1, 1.0),
        "pairs": Outcome(FAILED, rows, 3, 77.0, "It came to 2 of 3."),
    }
    return page.described(simulated, loaded, found)


def test_the_json_and_the_page_hold_the_name_of_the_hardware_and_what_was_found() -> None:
    found = json.loads(json.dumps(report(simulated=False)))
    assert list(found) == [
        *("format", "simulated", "device", "date", "hardware", "verdict", "sections"),
    ]
    assert (found["format"], found["simulated"], found["device"]) == (1, False, NAME)
    assert found["hardware"]["cores"] == 16
    assert found["verdict"] == "Not verified: Pairs."
    keys = ["name", "title", "about", "state", "told", "items", "rows", "seconds"]
    assert [list(section) for section in found["sections"]] == [keys, keys]
    assert found["sections"][1]["rows"][0]["figures"] == {"gap": 1.25e-10}
    text = page.page(found)
    assert text.startswith(f"# The GPU path on {NAME}\n")
    assert "| Pairs | failed | 2 of 3 | 77 |" in text
    assert "| a x b | failed | 1.25e-10 | It \\| waits. |" in text
    assert f"| GPU | {NAME} |" in text


def test_the_page_of_a_dry_run_says_so_in_its_title_and_has_no_seconds() -> None:
    found = report(simulated=True)
    text = page.page(found)
    assert text.startswith("# The GPU path on a simulated device: a dry run, no GPU\n")
    assert "seconds" not in json.dumps(found)
    assert "| Pairs | failed | 2 of 3 |\n" in text


def test_the_page_for_users_has_the_sections_by_the_names_that_only_takes() -> None:
    text = (ROOT / "docs" / "gpu.md").read_text("utf-8")
    table = text.split("| section | what it asks |")[1].split("\n\n")[0]
    ordered = sorted(sections.names(), key=lambda name: sections.load(name).ORDER)
    assert re.findall(r"^\| `(\w+)` ", table, re.MULTILINE) == ordered


def test_items_of_which_the_same_is_told_make_one_line_and_no_table() -> None:
    alike = [Row(item, NOT_SHOWN, "It ran.") for item in ("a", "b")]
    assert page.in_a_line(alike) == "It ran. a; b."
    assert page.in_a_line([*alike, Row("c", FAILED, "It ran.")]) == ""
    assert page.in_a_line([*alike, Row("c", NOT_SHOWN, "It ran.", {"seconds": 1.0})]) == ""


def test_every_section_has_a_title_and_a_place_of_its_own() -> None:
    loaded = [sections.load(name) for name in sections.names()]
    assert len({section.TITLE for section in loaded}) == len(loaded)
    assert len({section.ORDER for section in loaded}) == len(loaded)
    # What measures time has some of the ten minutes left, when the others have used up theirs.
    alone = sum(section.SECONDS for section in loaded if section.ALONE)
    together = max(section.SECONDS for section in loaded if not section.ALONE)
    assert alone + together < 600


def test_what_is_not_installed_is_named_with_what_it_asks_for_itself() -> None:
    asked = {
        "hydra-core": ["antlr4-python3-runtime==4.9.*", "nothing; extra == 'dev'"],
        "torch": ["cuda-parts"],  # which come in several ways
    }

    def required(name: str) -> list[str]:
        if name in ("pooch", "antlr4-python3-runtime"):
            raise metadata.PackageNotFoundError(name)
        return asked.get(name, [])

    def version(name: str) -> str:
        return "2.4.0" if name == "omegaconf" else metadata.version(name)

    assert requirements.missing(required, version) == [
        "antlr4-python3-runtime==4.9.*",
        "omegaconf<2.4,>=2.3 (has 2.4.0)",
        "pooch>=1.8",
    ]
    assert requirements.missing() == []


def test_what_the_marked_tests_import_is_among_what_has_to_be_installed() -> None:
    homes = [path for part in ("helpers", "gpu") for path in (ROOT / "tests" / part).glob("*.py")]
    helpers = {path.stem: path for path in homes}
    waiting = [ROOT / item for item in marked_tests.items(given_for(ROOT))]
    files, imported = set[Path](), set[str]()
    while waiting:
        files.add(path := waiting.pop())
        words = re.findall(r"^(?:from|import) (\w+)", path.read_text("utf-8"), re.MULTILINE)
        imported |= set(words) - set(helpers)
        waiting += [
            helpers[word] for word in words if word in helpers and helpers[word] not in files
        ]
    looked_at = set[str]()

    def required(name: str) -> list[str]:
        looked_at.add(name.lower())
        return metadata.requires(name) or []

    requirements.missing(required)
    homes_of = metadata.packages_distributions()
    foreign = imported - sys.stdlib_module_names - {"bilevel_cli", "benchmarks"}
    assert {"torch", "hypothesis"} < foreign
    assert [name for name in foreign if homes_of[name][0].lower() not in looked_at] == []


# --- what they find -------------------------------------------------------------------------------


def test_a_precision_has_a_gap_between_nothing_and_what_is_trusted() -> None:
    def state(gaps: list[float], exact: bool = False, bounded: bool = True) -> str:
        return precision.judged("x", gaps, [1.0] * len(gaps), exact, bounded).state

    assert state([0.0, 0.0], exact=True) == state([1e-3, 2e-3]) == PASSED
    assert state([0.0, 1e-7], exact=True) == FAILED
    assert state([0.0, 1e-7], exact=True, bounded=False) == FAILED
    assert state([1e-3, 0.11]) == state([1e-3, math.nan]) == FAILED
    assert state([0.5, 2.0], bounded=False) == PASSED
    assert state([0.5, math.nan], bounded=False) == FAILED
    assert "changed nothing" in precision.judged("x", [0.0], [1.0], False, True).told


@pytest.mark.parametrize("norm", [0.0, math.nan, math.inf])
def test_a_precision_is_not_judged_where_there_is_no_hypergradient(norm: float) -> None:
    row = precision.judged("x", [0.0, 0.0], [1.0, norm], exact=False, bounded=False)
    assert row.state == FAILED
    assert "no hypergradient to compare" in row.told


def test_a_budget_holds_what_goes_beyond_the_graph_of_one_step() -> None:
    def state(whole: int, least: int, peak: int) -> str:
        return memory_budget.judged("x", whole, least, 100, peak).state

    assert state(1000, 50, 150) == PASSED
    assert state(1000, 50, 151) == FAILED
    assert state(150, 50, 90) == FAILED  # the graphs fit: nothing is shown


def test_graphs_are_told_as_faster_than_eager() -> None:
    def row(how: str, seconds: float) -> Row:
        return Row(f"{captures.PROBLEMS[0]}, {how}", PASSED, figures={"seconds": seconds})

    told = captures.summary([row("eager", 3.0), row("graph", 1.0)])
    assert told == f"{captures.PROBLEMS[0]}: graph 3.00 times as fast as eager."
    assert captures.summary([row("eager", 3.0)]) == ""


def test_the_tests_of_a_file_are_counted_and_those_that_failed_are_named(tmp_path: Path) -> None:
    file = tmp_path / "found.xml"
    cases = {
        "a": "<testcase name='a'/>",
        "b": "<testcase name='b'><failure message='one&#10;two'/></testcase>",
        "c": "<testcase name='c'><skipped message='needs two CUDA devices'/></testcase>",
    }

    def row(names: str) -> Row:
        inner = "".join(cases[name] for name in names)
        file.write_text(f"<testsuites><testsuite>{inner}</testsuite></testsuites>")
        return marked_tests.row("x", file)

    assert row("abc") == Row(
        *("x", FAILED, "b: one; c: needs two CUDA devices"),
        {"passed": 1, "failed": 1, "skipped": 1},
    )
    assert [row(names).state for names in ("a", "ac", "c")] == [PASSED, PASSED, NOT_SHOWN]
    assert marked_tests.summary([row("a"), row("ac")]) == "2 passed, 0 failed, 1 skipped."


def test_a_case_of_the_benchmark_is_held_to_the_best_peer() -> None:
    times = pd.DataFrame(
        [
            {**{"case": "c", "implementation": who, "round": 0, "wall": wall, "cpu": wall},
             **{"error": error, "pessimistic_step": math.nan}}
            for who, wall, error in (("plain autograd", 2.0, 1e-6), ("ours", 1.0, 1e-6))
        ]
    )  # fmt: skip
    row = benchmark_rows.compared("c", times)
    assert row.state == PASSED
    assert row.figures["ours / peer"] == 0.5
    times.loc[1, "error"] = 0.5
    assert benchmark_rows.compared("c", times).state == FAILED


def test_runs_are_alike_where_every_bit_of_every_part_is() -> None:
    one = {"outer": {"w": torch.ones(2)}, "steps": [1, 2.5], "name": None}
    changes: list[dict[str, Any]] = [
        {"outer": {"w": torch.tensor([1.0, 1.0 + 2**-52])}},
        {"outer": {}},
        {"steps": [1]},
        {"name": "x"},
    ]
    for changed in changes:
        other = {**one, **changed}
        assert [runs.same(one, other, key) for key in one].count(False) == 1
    assert all(runs.same(one, {**one, "outer": {"w": torch.ones(2)}}, key) for key in one)


# --- the whole ------------------------------------------------------------------------------------


def command(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    words = [sys.executable, "-m", "benchmarks.verify", *map(str, arguments)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True)


def test_a_machine_without_a_gpu_is_told_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    handler = signal.getsignal(signal.SIGTERM)
    code = exit_code("verify", __main__.main, monkeypatch, "--out", tmp_path / "out")
    signal.signal(signal.SIGTERM, handler)
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2
    assert "needs a GPU" in line
    assert "--simulate" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_dry_run_comes_to_its_end(tmp_path: Path) -> None:
    done = command(
        "--simulate", "--out", tmp_path, "--tasks", "quadratic,meta", "--methods", "cg,es"
    )
    found = json.loads((tmp_path / page.JSON).read_text())
    assert done.returncode == 0, found
    assert found["verdict"] == "The dry run came to its end."
    names = [section["name"] for section in found["sections"]]
    assert names == sorted(sections.names(), key=lambda name: sections.load(name).ORDER)
    assert all(len(section["rows"]) == section["items"] > 0 for section in found["sections"])
    hardware = [s for s in found["sections"] if sections.load(s["name"]).HARDWARE]
    assert not any(row["figures"] for section in hardware for row in section["rows"])
