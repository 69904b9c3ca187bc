"""MLflow has the rows of a run once, whatever its folder is called and whatever ended it."""

import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from commands import bilevel_run
from configs import composed
from test_loggers import rows

from bilevel_cli.loggers import mlflow as shelf
from bilevel_cli.loggers.mlflow import MLflow
from bilevel_cli.runs import entry

# MLflow's own, of SQLAlchemy and others.
pytestmark = pytest.mark.filterwarnings("ignore")
QUICK = ["device=cpu", "task=quadratic", "log_every=1", "eval_every=5", "loggers=[mlflow]"]


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The client of the database in the folder where the test is, and where runs write to it."""
    there = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    return there.MlflowClient(f"sqlite:///{tmp_path}/db/mlflow.db")


def run_of(client: Any) -> Any:
    (found,) = client.search_runs([client.get_experiment_by_name("bilevel").experiment_id])
    return found


def here(*overrides: str) -> Any:
    return composed(*QUICK, "loggers.mlflow.uri='sqlite:///db/mlflow.db'", *overrides)


def test_a_folder_may_have_quotes_and_spaces(client: Any, tmp_path: Path) -> None:
    folder = tmp_path / 'it\'s "mine" a'
    entry.run(here("outer_steps=2"), folder, {})
    entry.run(here("outer_steps=4"), folder, {})
    run = run_of(client)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == f"{tmp_path.name}/{folder.name}"
    # A parameter of MLflow never changes: what the second call changed is in a tag.
    assert run.data.params["outer_steps"] == "2"
    assert run.data.tags["bilevel.continued.outer_steps"] == "4"
    history = client.get_metric_history(run.info.run_id, "train/outer_loss")
    told = {one.step: one.value for one in history}
    expected = {int(row["step"]): float(row["outer_loss"]) for row in rows(folder / "train.csv")}
    assert told == expected
    assert len(history) == 4


def test_rows_that_come_again_are_there_once(client: Any, tmp_path: Path) -> None:
    logger = MLflow("sqlite:///db/mlflow.db", "bilevel")
    logger.begin(tmp_path, {"seed": 0}, 0)
    for step in range(1, 4):
        logger.write("train", {"step": step, "loss": 0.1 * step, "seconds": step})
    # It is killed, and goes on from a checkpoint of step 1.
    logger = MLflow("sqlite:///db/mlflow.db", "bilevel")
    logger.begin(tmp_path, {"seed": 0}, 1)
    for step in range(2, 5):
        logger.write("train", {"step": step, "loss": 0.1 * step, "seconds": 10 + step})
    run = run_of(client).info.run_id
    losses = client.get_metric_history(run, "train/loss")
    assert [(one.step, one.value) for one in losses] == [(n, 0.1 * n) for n in range(1, 5)]
    seconds = {one.step: one.value for one in client.get_metric_history(run, "train/seconds")}
    assert seconds == {1: 1, 2: 12, 3: 13, 4: 14}


def test_many_settings_odd_names_and_no_numbers_are_taken(client: Any, tmp_path: Path) -> None:
    logger = MLflow("sqlite:///db/mlflow.db", "bilevel")
    settings = {"many": {f"n{number}": number for number in range(150)}, "odd[0]": 1}
    logger.begin(tmp_path, settings, 0)
    logger.write("eval", {"step": 0, "penalty[0]": 1.0, "loss": math.nan})
    data = run_of(client).data
    assert len(data.params) == 151
    assert data.params["odd_0_"] == "1"
    assert data.metrics["eval/penalty_0_"] == 1.0
    assert math.isnan(data.metrics["eval/loss"])


@pytest.mark.slow
def test_jobs_whose_paths_have_quotes_get_their_rows(
    client: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("my data").mkdir()
    lines = [f"{n % 7},{n % 5},{'yes' if n % 3 else 'no'}" for n in range(120)]
    Path("my data/b c.csv").write_text("\n".join(["a,b,churn", *lines]) + "\n")
    given = ["task=reweight", "outer_steps=4", "inner_steps=3", "loggers=[mlflow]", "device=cpu"]
    given += ["data=table", "data.path='my data/b c.csv'", "data.target=churn"]
    given += ["loggers.mlflow.uri='sqlite:///db/mlflow.db'"]
    assert bilevel_run(monkeypatch, "-m", *given, "seed=0,1", "hydra.sweep.dir=sw") == 0
    assert bilevel_run(monkeypatch, *given, 'hydra.run.dir="it\'s mine"') == 0
    said = capsys.readouterr()
    assert "gets no more rows" not in said.out + said.err
    number = client.get_experiment_by_name("bilevel").experiment_id
    assert len(client.search_runs([number])) == 3


@pytest.mark.slow
def test_jobs_that_begin_together_make_one_database(client: Any, tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from bilevel_cli.loggers.mlflow import MLflow; import sys\n"
        "one = MLflow('sqlite:///db/mlflow.db', 'bilevel')\n"
        "one.begin(Path(sys.argv[1]), {'seed': 0}, 0)\n"
        "one.write('train', {'step': 1, 'loss': 0.5})\n"
    )
    jobs = [subprocess.Popen([sys.executable, "-c", program, str(n)]) for n in range(4)]
    assert [job.wait() for job in jobs] == [0] * 4
    number = client.get_experiment_by_name("bilevel").experiment_id
    assert [run.data.metrics for run in client.search_runs([number])] == [{"train/loss": 0.5}] * 4


def test_no_filter_has_the_path_of_a_run_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without MLflow, whose filters know no way to write a quote within quotes."""
    monkeypatch.chdir(tmp_path)
    asked: list[str] = []

    class Client:
        def __init__(self, uri: str) -> None:
            self.get_experiment_by_name = lambda name: SimpleNamespace(experiment_id="1")

        def search_runs(self, numbers: list[str], words: str, max_results: int) -> list[Any]:
            asked.append(words)
            raise ConnectionError

    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(MlflowClient=Client))
    monkeypatch.setattr(shelf, "require", lambda package, extra: None)
    with pytest.raises(ConnectionError):
        MLflow("sqlite:///x.db", "bilevel").begin(tmp_path / "it's", {}, 0)
    assert "it" not in asked[0]
    assert asked[0].count("'") == 2


def test_one_database_serves_runs_that_were_started_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    found = set()
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        found.add(shelf.address(None))
    assert found == {f"sqlite:///{tmp_path}/home/bilevel-cli/mlflow.db"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert shelf.address(None) == "http://127.0.0.1:5000"
    assert shelf.address("sqlite:///x/y.db") == f"sqlite:///{tmp_path}/other/x/y.db"
