"""`bilevel_cli.load`: many runs as one table."""

from pathlib import Path

import pandas as pd
import pytest
from commands import bilevel_run
from pages import run_at

import bilevel_cli
from bilevel_cli import UsageError

SWEEP = ["task=quadratic", "device=cpu", "method=cg,reverse", "seed=0,1", "outer_steps=2"]
SWEEP += ["inner_steps=3", "log_every=1", "metrics=[norms]"]


def test_a_sweep_is_a_row_a_run_by_the_names_that_were_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert bilevel_run(monkeypatch, "-m", *SWEEP, "hydra.sweep.dir=outputs/sweep") == 0
    runs = bilevel_cli.load("outputs")
    assert list(runs) == [
        *("method", "task", "device", "method/linear_solver"),
        *("outer_steps", "inner_steps", "log_every"),
        *("seed", "status"),
        *("value", "hypergradient_norm", "inner_distance"),
        *("step", "seconds", "inner_grads", "hvps", "peak_memory_mb", "folder"),
    ]
    assert runs["method"].tolist() == ["cg", "cg", "reverse", "reverse"]
    assert runs["seed"].tolist() == [0, 1, 0, 1]
    assert runs["step"].tolist() == [2] * 4
    assert set(runs["status"]) == {"completed"}
    rows = bilevel_cli.load("outputs", kind="eval")
    identifying = list(runs)[: list(runs).index("status") + 1]
    assert list(rows)[: len(identifying) + 3] == [*identifying, "folder", "step", "seconds"]
    last = rows[rows["step"] == 2].set_index("folder")["value"]
    assert last.to_dict() == runs.set_index("folder")["value"].to_dict()
    for folder, found in bilevel_cli.load("outputs", kind="train").groupby("folder"):
        written = pd.read_csv(Path(str(folder), "train.csv"))
        assert found["outer_loss"].tolist() == pytest.approx(written["outer_loss"].tolist())
        assert found["step"].tolist() == [1, 2]


def test_settings_that_differ_between_runs_of_the_same_options_are_columns(tmp_path: Path) -> None:
    cg, iaptt = {"task": "toy", "method": "cg"}, {"task": "toy", "method": "iaptt"}
    run_at(tmp_path / "a", choices=cg, solver={"lr": 0.1, "decay": 0}, method={"steps": 5})
    run_at(tmp_path / "b", choices=cg, solver={"lr": 0.2, "decay": 0}, method={"steps": 5})
    run_at(tmp_path / "c", choices=iaptt, solver={"lr": 0.1, "decay": 0}, layers=[4, 4])
    runs = bilevel_cli.load(tmp_path / "a", tmp_path / "b", tmp_path / "c")
    options = list(runs)[: list(runs).index("seed")]
    # method.steps and layers follow from the choice of the method; the decay is everywhere one.
    assert options == ["method", "task", "solver.lr"]
    assert runs["solver.lr"].tolist() == [0.1, 0.2, 0.1]


def test_what_was_typed_is_a_column_even_where_it_is_the_same(tmp_path: Path) -> None:
    for seed in (0, 1):
        folder = run_at(tmp_path / f"seed={seed}", seed=seed, layers=[4, 4], model={"width": 3})
        typed = "['layers=[4,4]', '+model={width:3}', seed=0, hydra.verbose=true]"
        (folder / ".hydra" / "overrides.yaml").write_text(typed)
    runs = bilevel_cli.load(tmp_path)
    assert list(runs)[: list(runs).index("seed")] == ["layers", "model.width"]
    assert [tuple(row) for row in runs.groupby("layers")["seed"].unique()] == [(0, 1)]


def test_a_run_without_a_number_has_its_rows_and_no_scores(tmp_path: Path) -> None:
    run_at(tmp_path / "a", (0.1, 0.5), status="diverged")
    run_at(tmp_path / "b", (0.1, 0.5), status="interrupted")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "eval.csv").write_text("")
    with pytest.warns(UserWarning, match="is empty"):
        runs = bilevel_cli.load(tmp_path)
    assert runs["status"].tolist() == ["diverged", "interrupted", "missing"]
    assert runs["test_accuracy"].isna().tolist() == [True, False, True]
    assert runs["step"].tolist()[:2] == [10, 10]
    with pytest.warns(UserWarning, match="is empty"):
        rows = bilevel_cli.load(tmp_path, kind="eval")
    assert rows["status"].tolist() == ["diverged"] * 2 + ["interrupted"] * 2


def test_no_folder_no_run_and_no_such_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such folder"):
        bilevel_cli.load(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="neither it nor a folder below it"):
        bilevel_cli.load(tmp_path)
    with pytest.raises(UsageError, match="one of runs, train, eval, got 'rows'"):
        bilevel_cli.load(tmp_path, kind="rows")  # type: ignore[arg-type] # on purpose
