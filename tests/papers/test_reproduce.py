"""What `make reproduce` says of the papers: verdicts, the page, and a run from end to end."""

import importlib
import math
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from configs import composed
from scipy.stats import ttest_rel

from reproductions import carry_out, item, page, results

ROOT = Path(__file__).parents[2]
ITEMS = item.items()
Row, near, above, below = item.Row, item.near, item.above, item.below


def tiny(**changes: Any) -> Any:
    """An item of one run, of which F after 3 outer steps is held to a number."""

    def rows(found: Any) -> list[Any]:
        return [Row("F | at the end", changes["expected"], "Fig. 9", found.last("run", "value"))]

    def draw(found: Any, figure: Any) -> None:
        figure.subplots().plot(found.scores("run")["value"])

    return item.Item(
        order=1,
        title="A tiny item",
        about="Three steps.",
        open="Everything else.",
        runs=(item.Run("run", changes.get("run", "task=bda_toy outer_steps=3")),),
        rows=rows,
        figures=(item.Figure("tiny", "F.", draw),),
    )


# --- verdicts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "ours", "verdict"),
    [
        (near(1.0, 0.1), 1.09, "reproduced"),
        (near(1.0, 0.1), 1.11, "differs"),
        (near(1.0, 0.1), 0.89, "differs"),
        (below(0.02), 0.019, "reproduced"),
        (below(0.02), 0.021, "differs"),
        (above(0.7), 0.71, "reproduced"),
        (above(0.7), 0.69, "differs"),
        (item.between(0.36, 0.37, "0.369"), 0.365, "reproduced"),
        (near(1.0, 0.1), math.nan, "not run"),
        (above(0.7), math.inf, "differs"),  # a run that diverged is not "large"
    ],
)
def test_a_verdict_is_computed_from_the_interval(expected: Any, ours: float, verdict: str) -> None:
    assert Row("x", expected, "Fig. 1", ours).verdict == verdict


def test_a_difference_is_explained_or_said_to_be_unexplained() -> None:
    assert Row("x", near(1, 0.1), "Fig. 1", 2.0, "other settings").why == "other settings"
    assert Row("x", near(1, 0.1), "Fig. 1", 2.0).why == "reason not known"
    assert Row("x", near(1, 0.1), "Fig. 1", 1.0, "other settings").why == ""


# --- items ----------------------------------------------------------------------------------------


def test_items_are_the_files_in_their_order() -> None:
    files = {path.stem for path in (ROOT / "reproductions" / "items").glob("[!_]*.py")}
    assert set(ITEMS) == files
    assert [one.order for one in ITEMS.values()] == list(range(1, len(files) + 1))


@pytest.mark.parametrize("name", ITEMS)
def test_every_number_names_its_source_and_none_is_there_before_a_run(
    name: str, tmp_path: Path
) -> None:
    one = ITEMS[name]
    rows = one.rows(results.Results(tmp_path))
    assert rows
    assert all(row.source and row.expected.published and row.quantity for row in rows)
    assert {row.verdict for row in rows} == {"not run"}
    assert len({run.name for run in one.runs}) == len(one.runs)
    assert len({row.quantity + row.source for row in rows}) == len(rows)
    assert one.open
    assert one.figures


@pytest.mark.slow
@pytest.mark.parametrize("name", ITEMS)
def test_every_command_of_an_item_composes(name: str) -> None:
    for run in ITEMS[name].runs:
        composed(*run.command)


def test_the_first_solved_step_is_the_first_with_both_errors_small() -> None:
    toy = importlib.import_module("reproductions.items.iaptt_toy")
    errors = {"relative_error_f": [1, 0.01, 0.01, 1], "relative_error_x": [1, 1, 0.019, 0]}
    assert toy.first_solved(pd.DataFrame(errors, index=[0, 5, 10, 15])) == 10
    assert toy.first_solved(pd.DataFrame(errors).iloc[:2]) == math.inf


def test_pessimistic_steps_are_averaged_over_fifty_outer_steps() -> None:
    separation = importlib.import_module("reproductions.items.separation")
    steps = pd.DataFrame({"pessimistic_step": [10] * 50 + [30] * 50}, index=range(1, 101))
    assert separation.mean_steps(steps).to_dict() == {50: 10, 100: 30}


def test_a_difference_survives_by_a_paired_test_and_holms_correction() -> None:
    cleaning = importlib.import_module("reproductions.items.hyper_cleaning")
    one, other = [1.0, 0.7, 1.4, 0.9], [0.8, 0.1, 1.1, 0.2]
    expected = float(ttest_rel(one, other).pvalue)
    assert cleaning.chance(cleaning.gaps(one, other)) == pytest.approx(expected, rel=1e-9)
    assert cleaning.gaps(one, [*other[:3], math.inf]) == []
    # 0.005 <= 0.05 / 4 and 0.01 <= 0.05 / 3, but 0.03 > 0.05 / 2 ends it.
    assert cleaning.surviving({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == {"a", "d"}
    assert cleaning.surviving({"a": 0.02, "b": 0.03}) == {"a", "b"}


def test_a_lead_counts_where_it_survives_and_the_others_are_named() -> None:
    cleaning = importlib.import_module("reproductions.items.hyper_cleaning")
    sure, unsure, worse = [1.0, 1.1, 0.9, 1.0], [1.0, -1.0, 2.0, 0.0], [-1.0, -1.1, -0.9, -1.0]
    count, reason = cleaning.ahead({"cg": sure, "bda": unsure, "reverse": worse, "neumann": []})
    assert count == 1
    assert [part.split()[0] for part in reason.split("; ")] == ["BDA", "RHG"]
    assert reason.endswith("behind")


@pytest.mark.slow
def test_the_statements_on_implicit_bias_hold(tmp_path: Path) -> None:
    one = ITEMS["implicit_bias"]
    assert one.measure is not None
    one.measure(tmp_path)
    rows = one.rows(results.Results(tmp_path))
    assert [row.quantity for row in rows if row.verdict != "reproduced"] == []


# --- runs and the page ----------------------------------------------------------------------------


def test_a_run_is_made_once_and_anew_where_its_settings_changed(tmp_path: Path) -> None:
    command, folder = ["task=bda_toy", "outer_steps=3", "device=cpu"], tmp_path / "run"
    assert carry_out.complete(command, folder)
    assert not carry_out.complete(command, folder)
    # Nothing of the old run is continued, which a run by itself would refuse.
    assert carry_out.complete([*command, "optimizer.lr=0.5"], folder)
    assert results.Results(tmp_path).manifest("run")["settings"]["optimizer"]["lr"] == 0.5


def test_a_run_that_diverges_is_told_as_such_and_not_tried_again(tmp_path: Path) -> None:
    command = ["task=bda_toy", "method=cg", "outer_steps=50", "log_every=1", "device=cpu"]
    command += ["optimizer.lr=1e30"]
    assert carry_out.complete(command, tmp_path / "run")
    assert results.Results(tmp_path).last("run", "value") == math.inf
    assert not carry_out.complete(command, tmp_path / "run")


def test_an_item_goes_from_its_command_to_the_page(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    # F of x = y = 0 is 1/2; the exact hypergradient moves x towards 1/2, where F = 1/4.
    items = {"tiny": tiny(expected=item.between(0.25, 0.5, "1/4"))}
    carry_out.carry_out(items, tmp_path, quick=True, jobs=1)
    page.write(items, tmp_path, tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    value = results.Results(tmp_path / "tiny").last("run", "value")
    assert f"| F \\| at the end | 1/4 | Fig. 9 | {value:.4g} | 0.25 to 0.5 | reproduced |" in text
    assert "| [1. A tiny item](#1-a-tiny-item) | 1 | 0 | 0 | 1 |" in text
    assert "python -m bilevel_cli task=bda_toy outer_steps=3" in text
    assert "Everything else." in text
    assert 1000 < (tmp_path / "page" / "tiny.png").stat().st_size < 60_000
    # The verdict follows the file.
    scores = tmp_path / "tiny" / "run" / "eval.csv"
    scores.write_text("step,seconds,value\n3,0.1,0.9\n")
    page.write(items, tmp_path, tmp_path / "page.md")
    assert (
        "| 0.9 | 0.25 to 0.5 | **differs**: reason not known |"
        in (tmp_path / "page.md").read_text()
    )


def test_a_page_of_what_was_not_run_has_no_figure(tmp_path: Path) -> None:
    page.write({"tiny": tiny(expected=near(1, 0.1))}, tmp_path, tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert "| - | ± 0.1 | **not run**: part of `make reproduce` |" in text
    assert "tiny.png" not in text


@pytest.mark.parametrize(
    ("given", "written"),
    [
        (["page"], "docs/reproductions.md"),
        (["page", "--only", "memory_toy"], "outputs/reproductions/page.md"),
    ],
)
def test_a_page_of_some_items_never_replaces_the_published_one(
    given: list[str], written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[Path] = []
    main = importlib.import_module("reproductions.__main__")
    monkeypatch.setattr(main, "write", lambda items, outputs, page: pages.append(page))
    monkeypatch.setattr(sys, "argv", ["reproductions", *given])
    main.main()
    assert pages == [Path(written)]
