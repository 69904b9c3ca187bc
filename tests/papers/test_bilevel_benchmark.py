"""The tables and pictures of the bilevel benchmark, from runs that are made up."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest

from reproductions.bilevel import budgeted, curves, sheet
from reproductions.bilevel.budgeted import Task, carry_on
from reproductions.bilevel.published import PROBLEMS

IJCNN1 = PROBLEMS["ijcnn1"]
SOME = 12  # evaluations


def leave(folder: Path, seeds: int, end: float, steps: int, status: str = "completed") -> None:
    """Runs whose score falls from 1 to `end` after the first two of their evaluations."""
    for seed in range(seeds):
        path = folder / f"seed={seed}"
        path.mkdir(parents=True)
        at = [steps * (i + 1) // SOME for i in range(SOME)]
        scores = [1.0, 1.0, *[end * (1 + seed)] * (SOME - 2)]
        columns = {"step": at, "seconds": range(SOME), "hypergradient_norm2": scores}
        pd.DataFrame(columns).to_csv(path / "eval.csv", index=False)
        (path / "manifest.json").write_text(json.dumps({"status": status}))


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_experiment_says_where_it_ends_and_every_published_one_exists(name: str) -> None:
    experiments = PROBLEMS[name].experiments()
    assert experiments.keys() >= PROBLEMS[name].published.keys()
    assert {"saba", "soba", "srba", "vrbo"} <= experiments.keys()
    assert all(one["outer_steps"] > 0 for one in experiments.values())


def test_the_table_holds_published_ours_and_a_verdict(tmp_path: Path) -> None:
    steps = {name: one["outer_steps"] for name, one in IJCNN1.experiments().items()}
    leave(tmp_path / "saba", 3, 1e-8, steps["saba"])
    leave(tmp_path / "mrbo", 3, 1e-6, steps["mrbo"] // 4)
    leave(tmp_path / "bsa", 1, 1e-4, steps["bsa"])
    leave(tmp_path / "srba", 1, 1e-9, steps["srba"])
    _, *rows = sheet.table(IJCNN1, tmp_path)
    assert [row[0] for row in rows] == ["srba", "saba", "mrbo", "bsa"]  # best first
    found = {row[0]: dict(zip(sheet.HEAD, row, strict=True)) for row in rows}
    # The median over seeds of ends that are 1, 2 and 3 times as large.
    assert found["saba"]["ours"] == "2.0e-08 (1.0e-08 to 3.0e-08)"
    assert found["saba"]["published"] == "3.3e-08"
    assert found["saba"]["verdict"] == "reproduced"
    assert found["mrbo"]["of the calls"] == "25 %"
    assert found["mrbo"]["verdict"] == "open: its curve still falls"
    assert found["bsa"]["verdict"] == "differs: reason not known"
    assert found["srba"]["verdict"] == "nothing published to compare with"


def test_seeds_that_diverge_are_counted_and_have_no_score(tmp_path: Path) -> None:
    steps = {name: one["outer_steps"] for name, one in IJCNN1.experiments().items()}
    leave(tmp_path / "mrbo", 5, 1e-8, steps["mrbo"])
    leave(tmp_path / "ttsa", 2, 1.0, 10, "diverged")
    for seed in (0, 3):
        manifest = tmp_path / "mrbo" / f"seed={seed}" / "manifest.json"
        manifest.write_text(json.dumps({"status": "diverged"}))
    _, *rows = sheet.table(IJCNN1, tmp_path)
    assert [row[:4] for row in rows] == [
        ["mrbo", "8.4e-07", "3.0e-08 (2.0e-08 to 5.0e-08)", "3 of 5"],
        ["ttsa", "1.1e-05", "-", "0 of 2"],
    ]
    assert [row[-1] for row in rows] == [
        "differs: 2 of 5 seeds diverged at these step sizes",
        "differs: 2 of 2 seeds diverged at these step sizes",
    ]


def test_oracle_calls_end_where_the_published_curves_do(tmp_path: Path) -> None:
    experiment = IJCNN1.experiments()["fsla"]
    leave(tmp_path, 2, 1e-5, experiment["outer_steps"])
    curve = curves.median_curve(IJCNN1, experiment, tmp_path)
    assert curve is not None
    assert curve["calls"].iloc[-1] == pytest.approx(2e9)
    # (4 + 3) examples of 64 at each step: N_CALLS of the benchmark.
    assert 2e9 / experiment["outer_steps"] == pytest.approx(7 * 64, rel=1e-6)


def test_the_page_keeps_what_it_says_of_a_problem_that_was_not_run(tmp_path: Path) -> None:
    page, peers = tmp_path / "benchmark.md", tmp_path / "curves.csv"
    page.write_text("<!-- ijcnn1 -->\nold\n<!-- end of ijcnn1 -->\n<!-- covtype -->\nkept\n")
    leave(tmp_path / "runs" / "ijcnn1" / "saba", 2, 1e-8, 6_250_000)
    peer = {"case": "ijcnn1 saba", "step": [1000, 2000], "seconds": [0.1, 0.2], "score": [1, 0.1]}
    pd.DataFrame(peer).to_csv(peers, index=False)
    sheet.write(PROBLEMS, tmp_path / "runs", peers, page)
    text = page.read_text()
    assert "| `saba` | 3.3e-08 |" in text
    assert "kept" in text
    assert (tmp_path / "pictures" / "benchmark_ijcnn1.png").stat().st_size > 1000
    assert not (tmp_path / "pictures" / "benchmark_covtype.png").exists()
    assert curves.peer_curves(peers, IJCNN1)["saba"]["calls"].tolist() == [
        pytest.approx(320_000),
        pytest.approx(640_000),
    ]


def test_a_peer_stands_beside_the_problem_whose_experiments_it_takes(tmp_path: Path) -> None:
    peers = tmp_path / "curves.csv"
    peer = {"case": ["mnist saba"], "step": [1000], "seconds": [0.1], "score": [0.5]}
    pd.DataFrame(peer).to_csv(peers, index=False)
    found = {name for name, problem in PROBLEMS.items() if curves.peer_curves(peers, problem)}
    assert found == {"mnist_90"}  # conf/experiment/benchmark_mnist_saba.yaml


def test_a_single_seed_has_the_folder_for_itself(tmp_path: Path) -> None:
    task = Task("one", (), tmp_path, 1)
    leave(tmp_path, 1, 1.0, 100)
    for file in (tmp_path / "seed=0").iterdir():
        file.rename(tmp_path / file.name)
    assert task.done
    assert task.spent == SOME - 1
    assert len(curves.tables(tmp_path)) == 1


def test_runs_share_the_seconds_and_those_at_their_end_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done, slow, wrong = (Task(name, (), tmp_path / name, 2) for name in ("done", "slow", "wrong"))
    leave(done.folder, 2, 1.0, 100)
    programs = {"slow": "import time; time.sleep(60)", "wrong": "print('a reason'); exit(2)"}
    monkeypatch.setattr(Task, "command", lambda task: [sys.executable, "-c", programs[task.name]])
    monkeypatch.setattr(budgeted, "LEAST", 1.0)
    carry_on([done, slow, wrong], 4.0)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "1 of 3 runs are done."
    assert said[1].startswith("slow: stopped after 2 s")
    assert said[2].startswith("wrong: failed: a reason after")
