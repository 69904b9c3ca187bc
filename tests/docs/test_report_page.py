"""docs/report.md names the budgets that --at knows."""

import re
from pathlib import Path

from bilevel_cli.report.costs import budgets

PAGE = Path(__file__).parents[2] / "docs" / "report.md"


def test_the_page_of_reports_names_each_budget_and_no_other() -> None:
    text = PAGE.read_text(encoding="utf-8")
    table = text.partition("<!-- budgets -->")[2].partition("<!-- end of budgets -->")[0]
    first_cells = [line.split("|")[1] for line in table.splitlines()[3:]]
    named = [name for cell in first_cells for name in re.findall(r"`(\w+)(?:=\d+)?`", cell)]
    assert set(named) == {*budgets(), "end"}
