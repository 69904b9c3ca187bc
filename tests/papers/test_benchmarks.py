"""The benchmarks on tiny problems: every peer that is installed, in float64, and the page."""

import functools
import importlib
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from bilevel_cli.nn import choosing

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # the benchmarks are no part of the package
workloads, peers, timing, memory, linear, kernels, precision, report, results = (
    importlib.import_module(f"benchmarks.{name}")
    for name in (
        *("workloads", "peers", "timing", "memory", "linear", "kernels", "precision"),
        *("report", "results"),
    )
)
CASES = workloads.cases("tiny", ["device=cpu", "device.dtype=float64"])
PEERS = sorted(
    p.stem for p in (ROOT / "benchmarks" / "peers").glob("[!_]*.py") if p.stem != "plain"
)


@functools.cache
def case_and_reference(name: str) -> tuple[Any, Any]:
    case = CASES[name]()
    return case, timing.plain_hypergradient(case)


@pytest.fixture(autouse=True)
def as_outside() -> Any:
    """Peers warn, and differentiate without asking whether gradients are enabled."""
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("name", CASES)
def test_ours_solves_the_problem_that_the_peers_are_shown(name: str) -> None:
    case, reference = case_and_reference(name)
    assert timing.error(case.ours(), reference) < 1e-10


@pytest.mark.parametrize("name", CASES)
def test_the_peers_are_given_layers_of_torch_alone(name: str) -> None:
    model = case_and_reference(name)[0].model
    leaves = [part for part in model.modules() if not list(part.children())]
    assert leaves
    # A subclass that only begins its parameters otherwise has its parent's forward.
    assert all(type(part).forward.__module__.startswith("torch.nn.") for part in leaves)


@pytest.mark.parametrize("stem", PEERS)
def test_a_peer_agrees_with_plain_autograd_in_float64(stem: str) -> None:
    peer = pytest.importorskip(f"benchmarks.peers.{stem}", exc_type=ImportError)
    compared = 0
    for name in CASES:
        case, reference = case_and_reference(name)
        if not hasattr(peer, case.kind):
            continue
        hypergradient = getattr(peer, case.kind)(case)
        hypergradient()  # the second one counts: rounds repeat it, and some peers keep a state
        error = timing.error(hypergradient(), reference)
        if (stem, name) == ("betty", "cleaning linear, CG"):
            # Its conjugate gradient (betty-ml 0.1.1) turns from the old residual: tables say wrong.
            assert error > 0.1
        else:
            assert error < 1e-10, name
        compared += 1
    assert compared


def test_the_pessimistic_step_is_the_first_and_the_last_where_it_says_so() -> None:
    first, last = (CASES[f"pessimistic step {where}"]() for where in ("first", "last"))
    assert first.metrics()["pessimistic_step"] == 1
    assert last.metrics()["pessimistic_step"] == last.steps


@pytest.mark.parametrize(
    ("given", "page"),
    [
        (["all", "--size", "quick"], "outputs/benchmarks_quick/benchmarks.md"),
        (["all", "--only", "maml"], "outputs/benchmarks_full_maml/benchmarks.md"),
        (["time"], "outputs/benchmarks_full/benchmarks.md"),
        (["all"], "docs/benchmarks.md"),
    ],
)
def test_the_published_page_is_written_by_a_whole_full_run_alone(
    given: list[str], page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []
    monkeypatch.setattr(sys, "argv", ["benchmarks", *given])
    monkeypatch.setattr(report, "write", lambda folder, page, *_: written.append(page))
    for name, measure in (
        ("machine", "describe"),
        ("timing", "run"),
        ("memory", "run"),
        ("commands", "run"),
        ("stochastic.measure", "run"),
    ):
        module = importlib.import_module(f"benchmarks.{name}")
        monkeypatch.setattr(module, measure, lambda *_: None)
    importlib.import_module("benchmarks.__main__").main()
    assert written == [Path(page)]


def test_a_benchmark_refuses_an_option_that_it_does_not_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "kernels", "--jobs", "3"])
    with pytest.raises(SystemExit) as refused:
        importlib.import_module("benchmarks.__main__").main()
    assert refused.value.code == 2
    assert "--jobs" in capsys.readouterr().err


def test_memory_is_measured_in_a_fresh_process_or_its_reason_is_printed(
    capfd: pytest.CaptureFixture[str],
) -> None:
    memory.one("tiny", "cpu", "linear", "ours", 3, "auto")
    assert '"mb": ' in capfd.readouterr().out


@pytest.mark.slow
def test_the_kernels_of_affine_layers_are_compared_case_by_case(
    capsys: pytest.CaptureFixture[str],
) -> None:
    linear.run("tiny", "cpu", 1, "cleaning MLP")
    header, _, *rows = capsys.readouterr().out.splitlines()
    assert header == "| workload | torch | fixed | auto | torch / fixed | torch / auto |"
    assert [row.split(" | ")[0] for row in rows] == [
        "| cleaning MLP, unrolled",
        "| cleaning MLP, Neumann",
    ]


def test_the_page_takes_the_fastest_right_peer_round_by_round_and_keeps_remarks(
    tmp_path: Path,
) -> None:
    def row(who: str, number: int, wall: float, error: float) -> None:
        cpu = wall if who == "ours" else 2 * wall
        facts = {"cpu": cpu, "device": float("nan"), "steps": 100, "pessimistic_step": ""}
        case = {"case": "cleaning linear, unrolled", "implementation": who, "round": number}
        results.append(tmp_path / "time.csv", **case, wall=wall, **facts, error=error)

    # The machine slows down by 10 in the last round, which no ratio within a round notices.
    for number, slow in enumerate((1.0, 1.0, 10.0)):
        row("plain autograd", number, 3.0 * slow, 1e-6)
        row("swift but wrong", number, 0.1 * slow, 0.5)
        row("higher", number, 2.0 * slow, 1e-6)
        row("plain autograd, our layers", number, 1.5 * slow, 1e-6)  # none of the peers
        row("ours", number, 1.0 * slow, 1e-6)
    results.append(tmp_path / "machine.csv", date="today", device="cpu")
    page = tmp_path / "page.md"
    report.write(tmp_path, page)
    page.write_text(page.read_text().replace("targets -->\n", "targets -->\nWhy.\n"))
    report.write(tmp_path, page)
    text = page.read_text()
    assert "| hyper-cleaning linear, unrolled | 0.72 | 0.50 | 0.50, bold | 0.25 | higher |" in text
    assert "| swift but wrong | 0.1000 | 0.2000 | 10.00 | 5.00 | 5e-01, wrong |" in text
    assert "| plain autograd, our layers | 1.5000 | 3.0000 | 0.67 | 0.33 | 1e-06 |" in text
    assert "targets -->\nWhy.\n<!-- end of remarks -->" in text
    assert "on a GPU: MAML | 0.20 | 0.10 | not measured" in text


def test_the_kernels_of_layers_are_shown_with_the_cost_of_choosing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "LAYERS", ((600, 784, 10),))
    kernels.run()
    *_, row = capsys.readouterr().out.splitlines()
    size, outputs, *products, cost = row.strip("| ").split(" | ")
    assert (size, outputs) == ("[600, 784]", "10")
    assert all(re.fullmatch(r"\d+\.\d\d, (onednn|torch)", product) for product in products)
    assert int(cost) >= 0


def test_the_page_shows_the_kernels_that_were_chosen_and_what_that_cost_on_each_processor(
    tmp_path: Path,
) -> None:
    for name, kernel in (("here", "onednn"), ("there", "torch")):
        facts = dict.fromkeys(kernels.WHERE, name)
        results.append(tmp_path / name / "machine.csv", device="cpu", **facts)
        times = {"onednn": 0.002, "torch": 0.003, "measuring": 0.05}
        for case in ("cleaning linear, CG", "cleaning linear, Neumann"):  # choosing is done once
            for product in ("a", "b"):
                row = {"case": case, "product": product, "kernel": kernel, **times}
                results.append(tmp_path / name / "kernels.csv", **row)
    report.write(tmp_path / "here", tmp_path / "page.md", None, [tmp_path / "there"])
    here, there = (tmp_path / "page.md").read_text().split("### The same with other instructions")
    for text, kernel in ((here, "onednn"), (there, "torch")):
        assert text.count(f"| b | 2 | 3 | {kernel} | 50 |") == 1
        assert "| all |  |  |  | 100 |" in text
    assert "* instructions: there" in there


def test_the_choices_of_a_case_are_noted_with_their_times(tmp_path: Path) -> None:
    with choosing.restored():
        choosing.begin(measuring=True)
        choices = choosing.current()
        choices.folder = tmp_path
        ones = {"onednn": lambda: torch.ones(1), "torch": lambda: torch.ones(1)}
        choices.fastest("a product", "torch", ones, to_measure=True)
        kernels.note(tmp_path / "kernels.csv", "a case")
    (row,) = pd.read_csv(tmp_path / "kernels.csv").to_dict("records")
    assert (row["case"], row["product"]) == ("a case", "a product, matmul_precision=highest")
    assert row["kernel"] == choices.taken["a product, matmul_precision=highest"]
    assert row["onednn"] >= 0
    assert row["measuring"] >= 0


def test_a_page_of_one_part_says_that_the_others_were_not_measured(tmp_path: Path) -> None:
    results.append(tmp_path / "machine.csv", date="today", device="cpu")
    for what, seconds in (("2 replicas in one run", float("nan")), ("2 single runs", 4.0)):
        results.append(tmp_path / "commands.csv", what=what, round=0, seconds=seconds)
    report.write(tmp_path, tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert text.count("Not measured.") == 5  # time, stochastic, kernels, exactness, memory
    assert "| 2 replicas in one run | refused |" in text
    assert "| 2 single runs | 4 |" in text


@pytest.mark.parametrize(
    ("norms", "gaps", "told"),
    [
        ([1.0, 2.0, 3.0], [0.1, 0.3, 0.2], "0.200, 0.300"),
        ([0.0, 0.0], [0.0, 0.0], "zero"),  # in float32 as well
        ([0.0, 2.0], [0.0, 0.25], "0.250, 0.250"),
        ([0.0, 0.0], [1.0, 0.0], "1.000, 1.000"),  # bfloat16 lost all of it
        ([1.0, float("nan")], [0.1, 0.1], "diverged"),
    ],
)
def test_a_cell_of_the_table_of_precision_tells_why_it_has_no_number(
    norms: list[float], gaps: list[float], told: str
) -> None:
    rows = pd.DataFrame({"grad_norm": norms, precision.COLUMN: gaps})
    assert precision.told(rows) == told
