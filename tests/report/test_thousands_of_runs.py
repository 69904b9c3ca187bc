"""A year of a group's runs: time and memory grow with the runs, and no faster."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks import many_runs
from bilevel_cli.report.compare import configurations, fairness
from bilevel_cli.report.compare.configurations import Configuration
from bilevel_cli.report.read.runs import Run

SEEDS = 5


def several(count: int) -> list[Run]:
    """Runs that differ by three of thirty options and by their seed, each of another commit."""
    empty = pd.DataFrame()
    found = []
    for number in range(count * SEEDS):
        which, seed = divmod(number, SEEDS)
        settings: dict[str, Any] = {f"part{n}.value": n for n in range(30)}
        settings |= {"a.lr": which % 7, "b.lr": which // 7, "c": which % 2, "seed": seed}
        manifest = {"git_commit": f"{number:012}", "data_sha256": str(which)}
        run = Run(
            *(Path(str(number)), str(number), "completed", None, settings, {"method": "cg"}),
            *(manifest, empty, empty, [], ()),
        )
        found.append(run)
    return found


def test_work_on_settings_grows_as_the_runs_do(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    key_of = configurations.key_of

    def counted(value: Any) -> str:
        nonlocal calls
        calls += 1
        return key_of(value)

    monkeypatch.setattr(configurations, "key_of", counted)
    taken = []
    for count in (40, 160):
        calls = 0
        assert len(configurations.configurations(several(count))) == count
        taken.append(calls)
    assert taken[1] == pytest.approx(4 * taken[0], rel=0.02)
    assert taken[1] < 160 * (3 * SEEDS + 40)  # each run a few times, each option once


def test_labels_and_groups_are_those_of_the_options_that_tell_runs_apart() -> None:
    found = configurations.configurations(several(14))
    assert [one.label for one in found] == [f"a.lr {n // 2}, b.lr {n % 2}" for n in range(14)]
    assert {len(one.runs) for one in found} == {SEEDS}


def test_a_line_on_circumstances_names_a_few_of_many() -> None:
    found = several(20)
    groups = [Configuration(str(n), {}, found[n * SEEDS : (n + 1) * SEEDS]) for n in range(20)]
    data, commit = fairness.unfair(groups)
    assert data.endswith("15 others).")
    assert commit.endswith(", 95 others runs).")
    assert len(data) < 400
    assert len(commit) < 400


@pytest.mark.timing
@pytest.mark.parametrize(
    ("count", "rows", "first", "second", "megabytes"),
    [(10_000, 200, 40, 20, 800), (200, 10_000, 8, 4, 600)],  # half of it, as docs/report.md says
)
def test_reports_on_many_runs_take_seconds_the_first_and_the_second_time(
    count: int, rows: int, first: float, second: float, megabytes: float, tmp_path: Path
) -> None:
    many_runs.make(tmp_path / "runs", count, rows)
    many_runs.settle()
    here = Path(many_runs.__file__).parents[1]
    for bound in (first, second):
        cpu, memory = many_runs.command(here, tmp_path / "runs", tmp_path / "cache")
        assert cpu < bound
        assert memory < megabytes
