"""A cost is one record: reports show it wherever they show costs, and no other module names it."""

import csv
import re
from pathlib import Path
from typing import Any

import pytest
from numpy.testing import assert_allclose
from pages import PLOTLY, bilevel_report, reported, run_at

from bilevel_cli.report import costs
from bilevel_cli.report.costs import Cost
from bilevel_cli.report.page import numbers, page
from bilevel_cli.report.show import figures, papers, terminal
from bilevel_cli.report.show.headline import headline

JOULES = Cost(
    column="energy_j",
    heading="J",
    title="energy (J)",
    axis="energy",
    budget="joules",
    unit="joules of energy",
    sentence="within {:,.4g} joules",
    peak=False,
)


@pytest.fixture
def spent(tmp_path: Path) -> Path:
    """Runs of two methods: each step takes 3 or 6 J, and more memory than the one before."""
    for method, joules in (("cheap", 3), ("dear", 6)):
        folder = run_at(tmp_path / "runs" / method, choices={"method": method})
        head, *rows = (folder / "train.csv").read_text().splitlines()
        rows = [f"{row},{joules * int(row.split(',')[0])}" for row in rows]
        (folder / "train.csv").write_text("\n".join([f"{head},energy_j", *rows, ""]))
    return tmp_path / "runs"


def test_a_column_that_is_no_cost_is_a_metric(spent: Path) -> None:
    assert "energy_j" in numbers.data(reported(spent))["metrics"]
    assert "energy" not in terminal.text(reported(spent), 200)


def test_a_new_cost_is_one_record(
    spent: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(costs, "COSTS", (*costs.COSTS, JOULES))
    found = reported(spent, at="joules")

    # Both methods spent 60 J: all of `cheap`, and `dear` up to its step 10.
    assert (found.budget.column, found.budget.limit) == ("energy_j", 60)
    values = {row.configuration.label: row.estimate.value for row in found.rows}
    assert values == {"cheap": 0.9, "dear": 0.5}
    assert "within 60 joules of energy, the most that all configurations" in found.statements[0]
    assert headline(found).startswith("cheap leads")
    assert "test accuracy 0.9 within 60 joules" in headline(found)

    head = terminal.columns(found)[0]
    assert head[-1] == "J"
    assert [row[-1] for row in terminal.columns(found)[1:]] == ["60", "60"]
    assert r" & MB & J \\" in papers.latex(found)
    papers.write_csv(found, tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="") as file:
        assert [float(row["mean_energy_j"]) for row in csv.DictReader(file)] == [60, 60]
    figures.save(found, tmp_path / "figure.svg")

    html = page.html(found, PLOTLY)
    assert '<input type="radio" name="axis" value="energy_j"><span>energy</span>' in html
    assert '<button type="button">energy (J)</button>' in html
    data = numbers.data(found)
    assert data["axis"] == "energy_j"  # the one at which runs are compared comes first
    assert data["pointwise"] == ["peak_memory_mb"]
    cheap = data["series"][0]["runs"][0]["tables"]["eval"]
    assert_allclose(cheap["x"]["energy_j"], [0, 30, 60])

    assert bilevel_report(monkeypatch, spent, "--at", "joules=59") == 0
    assert "within 59 joules of energy." in " ".join(capsys.readouterr().out.split())
    assert bilevel_report(monkeypatch, spent, "--at", "joule") == 2
    assert "peak_memory_mb, joules, end, got 'joule'. Did you mean" in capsys.readouterr().err
    assert bilevel_report(monkeypatch, "--help") == 0
    assert "joules" in capsys.readouterr().out


def test_a_new_peak_is_fitted_into_and_has_no_means(
    spent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_peak: dict[str, Any] = {**vars(JOULES), "peak": True}
    monkeypatch.setattr(costs, "COSTS", (*costs.COSTS, Cost(**as_peak)))
    found = reported(spent, at="joules")
    assert found.budget.limit == 120  # the least in which all of `dear` fits
    assert "the least in which all configurations fit" in found.statements[0]
    assert {row.estimate.value for row in found.rows} == {0.9}
    assert reported(spent, at="joules=29").rows[0].counts == {"too large": 1}
    assert numbers.data(found)["pointwise"] == ["peak_memory_mb", "energy_j"]


def test_every_cost_has_a_column_a_heading_and_a_title_of_its_own() -> None:
    for field in ("column", "heading", "title"):
        assert len({getattr(cost, field) for cost in costs.COSTS}) == len(costs.COSTS)


def test_no_other_module_of_reports_names_a_cost() -> None:
    names = "|".join({cost.column for cost in costs.COSTS} - {"step", "seconds"})
    folder = Path(costs.__file__).parent
    naming = [path for path in folder.rglob("*.py") if re.search(names, path.read_text())]
    assert naming == [folder / "costs.py"]
