"""Stochastic methods in JAX, as the benchmark times them: they take the steps that ours take."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
NAMES = ("ours", "JAX", "JAX, no copies")
sys.path.insert(0, str(ROOT))  # the benchmarks are no part of the package
cases, table, results = (
    importlib.import_module(f"benchmarks.{name}")
    for name in ("stochastic.cases", "stochastic.table", "results")
)


@pytest.fixture
def jax() -> Iterator[Any]:
    found = pytest.importorskip("jax", reason="JAX comes with bilevel-cli[bench]")
    with found.enable_x64(True):
        yield found


def peer_and_run(name: str, folder: Path, *settings: str) -> tuple[Any, Any]:
    programs = importlib.import_module("benchmarks.stochastic.programs")
    plain = ["device.capture=null", "device.dtype=float64", *cases.SMALL[name.split()[0]]]
    run = cases.built(cases.configured(name, *plain, *settings, size="tiny"), folder)
    return programs.peer(run), run


@pytest.mark.slow
@pytest.mark.parametrize("name", cases.names())
def test_a_peer_follows_the_trajectory_of_ours_from_the_same_batches(
    name: str, jax: Any, tmp_path: Path
) -> None:
    agreement = importlib.import_module("benchmarks.stochastic.agreement")
    peer, run = peer_and_run(name, tmp_path, "task.batch_size=16", "task.outer_batch_size=16")
    assert agreement.gap(run, peer, 40) < 1e-10  # rounding, relative to how far they went


def test_a_program_shows_each_block_once_before_any_comes_again(jax: Any, tmp_path: Path) -> None:
    programs = importlib.import_module("benchmarks.stochastic.programs")
    order, seen = programs._fresh(jax.random.PRNGKey(0), 5), []
    for _ in range(3):  # 15 draws by threes, and twos
        for count in (3, 2):
            drawn, order = programs._next(order, count)
            seen += drawn.tolist()
    epochs = [seen[first : first + 5] for first in (0, 5, 10)]
    assert [sorted(epoch) for epoch in epochs] == [[0, 1, 2, 3, 4]] * 3
    assert epochs[0] != epochs[1] or epochs[1] != epochs[2]


def test_the_table_compares_chunk_by_chunk_and_takes_steps_from_the_first_call(
    tmp_path: Path,
) -> None:
    path = tmp_path / "stochastic.csv"
    # 10 microseconds of JAX and 15 of ours; the machine slows down by 10 in the last chunk.
    for call, compilation in (("first", 7.0), ("second", 2.0)):
        for who, micros, own in (("ours", 15, compilation), ("JAX", 10, 1.5), (table.BEST, 5, 1)):
            for number, slow in enumerate((1, 1, 1, 10)):
                seconds = 1e-6 * micros * 1000 * slow + (own if number == 0 else 0)
                facts = {"implementation": who, "round": number, "steps": 1000, "wall": seconds}
                row = {"call": call, **facts, "cpu": seconds, "error": 0.0}
                results.append(path, case="ijcnn1 soba", **row)
    head, row = table.section(pd.read_csv(path))
    found = dict(zip(head, row, strict=True))
    assert [found[name] for name in ("ours", "JAX", table.BEST)] == ["15.0", "10.0", "5.0"]
    assert [found[name] for name in ("ours / JAX", f"ours / {table.BEST}")] == ["1.50", "3.00"]
    assert (found["must"], found["bold"], found["verdict"]) == ("2.00", "1.00", "reached")
    assert [found[name] for name in ("first call", "second", "JAX's")] == ["7.0", "2.0", "1.5"]


def test_a_new_table_leaves_the_rest_of_the_page_and_its_remarks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# One\n\n{table.TITLE}\n\nOld.\n\n{table.REMARKS}\nWhy.\n")
    table.renew(page, "| new |")
    text = page.read_text()
    assert text.startswith(f"# One\n\n{table.TITLE}\n")
    assert text.endswith(f"| new |\n\n{table.REMARKS}\nWhy.\n")
    assert "Old." not in text
    page.write_text("# One\n")
    with pytest.raises(ValueError, match="needs a section"):
        table.renew(page, "| new |")


@pytest.mark.slow
def test_ours_and_both_peers_are_timed_in_two_processes(jax: Any, tmp_path: Path) -> None:
    measure = importlib.import_module("benchmarks.stochastic.measure")
    measure.run(tmp_path, "tiny", "soba", "")
    found = pd.read_csv(tmp_path / "stochastic.csv")
    counts = found.groupby(["call", "implementation"]).size()
    assert set(counts.index) == {(call, who) for call in measure.CALLS for who in NAMES}
    assert set(counts) == {3}  # the first call, and two rounds
    assert (found.cpu > 0).all()
    assert (found.error <= measure.AGREES).all()
    # What the first process compiled is in the cache of the second.
    first, second = (
        float(found.cpu[(found.call == call) & (found.implementation == "ours")].iloc[0])
        for call in measure.CALLS
    )
    assert second < first


@pytest.mark.slow
def test_a_curve_of_a_peer_counts_what_it_costs_and_is_scored_by_our_task(
    jax: Any, tmp_path: Path
) -> None:
    curves = importlib.import_module("benchmarks.stochastic.curves")
    curves.run(tmp_path, "ijcnn1 soba", "", 1e-9)
    (row,) = pd.read_csv(tmp_path / "curves.csv").to_dict("records")  # the first ends it
    assert row["inner_grads"] == row["hvps"] == row["step"] == 2000
    assert 0 < row["score"] < 1
