"""How far a sweep is, and how long it takes: against clocks whose answer is known."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from bilevel_cli.sweeps import outcome
from bilevel_cli.sweeps.job import Job
from bilevel_cli.sweeps.outcome import Outcome
from bilevel_cli.sweeps.standing import Pace, Standing, duration, last_row


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def jobs(folder: Path, count: int, **settings: int | None) -> list[Job]:
    config = OmegaConf.create({"outer_steps": 100, "budget": None, "replicas": 1, **settings})
    made = [Job([f"seed={n}"], config, folder / str(n), str(n), "") for n in range(count)]
    for job in made:
        assert job.reserve()
    return made


def note(job: Job, status: str) -> None:
    with outcome.noting(job.folder) as noted:
        assert noted is not None
        noted.write(Outcome(status, ""))


def rows(folder: Path, *steps: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["step,seconds,inner_grads", *(f"{step},0.5,{step * 3}" for step in steps)]
    (folder / "train.csv").write_text("\n".join([*lines, ""]))


def test_with_two_of_four_jobs_done_the_other_two_take_as_long(tmp_path: Path) -> None:
    clock, four = Clock(), jobs(tmp_path, 4)
    pace = Pace(clock=clock)
    pace.begin(four)
    assert str(pace.look()[0]) == "0 of 4, 0 running"
    clock.now += 600
    note(four[0], "completed")
    note(four[1], "completed")
    standing, ended = pace.look()
    assert standing == Standing(2, 4, 0, 0, 600.0)
    assert [job.name for job, _ in ended] == ["0", "1"]
    assert pace.look()[1] == []


def test_the_outer_steps_of_jobs_that_run_count(tmp_path: Path) -> None:
    clock, four = Clock(), jobs(tmp_path, 4)
    pace = Pace(clock=clock)
    pace.begin(four)
    with outcome.noting(four[0].folder) as one, outcome.noting(four[1].folder) as two:
        assert one
        assert two
        one.write(Outcome("running", ""))
        two.write(Outcome("running", ""))
        pace.look()
        clock.now += 200  # in which processes start
        rows(four[0].folder, 10, 20)
        rows(four[1].folder, 10, 30)
        assert pace.look()[0].left is None
        clock.now += 60
        rows(four[0].folder, 10, 40)
        rows(four[1].folder, 10, 60)
        standing, _ = pace.look()
    # 0.2 + 0.3 jobs in 60 s, and 3 are left.
    assert standing == Standing(0, 4, 2, 0, standing.left)
    assert standing.left == pytest.approx(360)
    assert str(standing) == "0 of 4, 2 running, about 6 min left"


def test_a_slow_job_that_is_left_alone_has_its_own_pace(tmp_path: Path) -> None:
    clock, two = Clock(), jobs(tmp_path, 2)
    pace = Pace(clock=clock)
    pace.begin(two)
    with outcome.noting(two[0].folder) as slow:
        assert slow
        slow.write(Outcome("running", ""))
        pace.look()
        clock.now += 100
        rows(two[0].folder, 10)
        pace.look()
        clock.now += 100
        rows(two[0].folder, 10, 20)
        note(two[1], "completed")
        standing, _ = pace.look()
    # By the pace of both it would be 73 s; of its own, a tenth takes 100 s.
    assert standing.left == pytest.approx(800)


def test_what_was_done_before_costs_no_time_and_what_failed_is_not_waited_for(
    tmp_path: Path,
) -> None:
    clock, three = Clock(), jobs(tmp_path, 3)
    rows(three[0].folder, 50)
    pace = Pace(clock=clock)
    pace.begin(three)
    clock.now += 100
    rows(three[0].folder, 50, 100)
    note(three[0], "completed")
    note(three[1], "failed")
    standing, _ = pace.look()
    # Half a job in 100 s, and one is left.
    assert standing == Standing(1, 3, 0, 1, standing.left)
    assert standing.left == pytest.approx(200)
    assert str(standing) == "1 of 3, 0 running, 1 failed, about 3 min left"


def test_a_budget_and_replicas_count_as_a_run_counts_them(tmp_path: Path) -> None:
    clock = Clock()
    (job,) = jobs(tmp_path, 1, budget=300, replicas=2, outer_steps=10**6)
    pace = Pace(clock=clock)
    pace.begin([job])
    clock.now += 10
    rows(job.folder / "seed=0", 50)  # 150 of 300 inner gradients
    pace.look()
    clock.now += 10
    rows(job.folder / "seed=0", 50, 75)
    # The second replica has no row yet: of both, a quarter at first, and then an eighth more.
    assert pace.look()[0].left == pytest.approx(50)


def test_the_trials_that_a_search_has_not_chosen_yet_are_left_too(tmp_path: Path) -> None:
    clock, first = Clock(), jobs(tmp_path, 1)
    pace = Pace(total=5, clock=clock)
    pace.begin(first)
    clock.now += 10
    note(first[0], "completed")
    standing, _ = pace.look()
    assert standing.total == 5
    assert standing.left == pytest.approx(40)
    pace.rest()
    clock.now += 1000  # between two launches
    pace.begin(first)
    assert pace.look()[0].left == pytest.approx(40)


def test_a_stopped_job_that_is_queued_again_runs_again(tmp_path: Path) -> None:
    clock, (job,) = Clock(), jobs(tmp_path, 1)
    pace = Pace(clock=clock)
    pace.begin([job])
    note(job, "interrupted")
    assert pace.look()[0].failed == 1
    with outcome.noting(job.folder) as noted:
        assert noted
        noted.write(Outcome("running", ""))
        assert (pace.look()[0].running, pace.look()[0].failed) == (1, 0)


@pytest.mark.parametrize(
    "text", ["", "step,loss\n", "step,loss\n1,", "step,loss\n1,2,3\n", "\0\n\0\n"]
)
def test_a_table_without_a_whole_row_has_none(text: str, tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text(text)
    assert last_row(path, len(text)) == {}
    assert last_row(tmp_path / "none.csv", 0) == {}


def test_the_last_row_of_a_long_table_is_found_by_its_end(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text("step,loss\n" + "".join(f"{n},{n / 7}\n" for n in range(10_000)) + "10000,0.")
    assert last_row(path, path.stat().st_size) == {"step": 9999.0, "loss": 9999 / 7}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "5 s"),
        (42, "40 s"),
        (58, "1 min"),
        (750, "12 min"),
        (3600, "1 h"),
        (7900, "2 h 10 min"),
        (3 * 86400, "3 days"),
    ],
)
def test_a_duration_is_told_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_who_reads_a_note_keeps_no_job_from_beginning(tmp_path: Path) -> None:
    import fcntl
    import os
    import threading

    note(jobs(tmp_path, 1)[0], "running")
    descriptor = os.open(tmp_path / "0" / "job.json", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)  # as `outcome.read` does for a moment
    threading.Timer(0.1, os.close, [descriptor]).start()
    with outcome.noting(tmp_path / "0") as noted:
        assert noted is not None
