"""`bilevel_cli.run`: the command as a function, which leaves the process as it was."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from commands import bilevel_run, numbers
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser

import bilevel_cli
from bilevel_cli import Failed, UsageError
from bilevel_cli.api import bars
from bilevel_cli.api.overrides import assignments
from bilevel_cli.config.options import CONF
from bilevel_cli.machine import memory
from bilevel_cli.nn import affine, autocasting
from bilevel_cli.runs.runner import Runner

TINY: dict[str, Any] = {"inner_steps": 3, "log_every": 1, "eval_every": 2, "save_every": 2}
MEASURED = ["seconds", "peak_memory_mb"]  # of the machine

Changed = Callable[[Callable[[Runner], None]], None]


@pytest.fixture(autouse=True)
def as_in_a_fresh_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In a folder of its own, without the logging that commands of other tests have left."""
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    before = root.level, root.handlers
    root.handlers = []
    root.setLevel(logging.WARNING)
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers = before[1]
    root.setLevel(before[0])


def tiny(*overrides: str, **settings: Any) -> bilevel_cli.Run:
    task = () if any(text.startswith("task=") for text in overrides) else ("task=quadratic",)
    return bilevel_cli.run(*task, "device=cpu", *overrides, **{**TINY, **settings})


def same(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether two tables are equal, bit for bit, but for what measures the machine."""
    return one.drop(columns=MEASURED, errors="ignore").equals(
        other.drop(columns=MEASURED, errors="ignore")
    )


def interrupted_after(steps: int, how: Callable[[], None]) -> Callable[[Runner], None]:
    """A change of a runner by which something happens within the outer step after `steps`."""

    def change(runner: Runner) -> None:
        estimate = runner.estimate

        def estimates(*given: Any) -> Any:
            if runner.step == steps:
                how()
            return estimate(*given)

        runner.estimate = estimates

    return change


# ---- the same run as the command's


def test_a_call_leaves_the_files_and_the_numbers_of_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = ["outer_steps=4", "inner_steps=3", "log_every=1", "eval_every=2", "save_every=2"]
    typed = ["task=quadratic", "device=cpu", "method=cg", *settings, "metrics=[norms]"]
    run = tiny("method=cg", outer_steps=4, metrics=["norms"], folder="called")
    assert bilevel_run(monkeypatch, *typed, "hydra.run.dir=command") == 0
    for name in ("train.csv", "eval.csv"):
        assert numbers(Path("called", name)) == numbers(Path("command", name))
    assert len(run.train) == 4
    files = [
        {str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()}
        for folder in ("called", "command")
    ]
    assert files[0] == files[1]
    config = [Path(folder, ".hydra", "config.yaml").read_text() for folder in ("called", "command")]
    assert config[0] == config[1]
    logs = [Path(folder, "bilevel.log").read_text() for folder in ("called", "command")]
    # What to type next is told to who typed the command.
    assert logs[0] == logs[1].replace("command", "called").partition("Next:")[0]
    ours, theirs = (
        json.loads(Path(folder, "manifest.json").read_text()) for folder in ("called", "command")
    )
    assert list(ours) == list(theirs)
    for key in ("settings", "choices", "status", "data", "device", "higher_is_better"):
        assert ours[key] == theirs[key]
    # What is noted as the command repeats the run in a shell.
    assert ours["command"] == (
        "bilevel-run task=quadratic device=cpu method=cg inner_steps=3 log_every=1 eval_every=2 "
        "save_every=2 outer_steps=4 'metrics=[norms]' hydra.run.dir=called"
    )


def test_a_run_has_its_tables_scores_parameters_and_choices() -> None:
    run = tiny("method=cg", outer_steps=4, folder="here")
    assert (run.status, run.folder) == ("completed", Path("here").absolute())
    assert run.train["step"].tolist() == [1, 2, 3, 4]
    assert run.eval["step"].tolist() == [0, 2, 4]
    assert list(run.scores) == ["value", "hypergradient_norm", "inner_distance"]
    assert run.scores == run.eval.iloc[-1][list(run.scores)].to_dict()
    saved = torch.load(run.folder / "outer.pt", weights_only=True)
    assert run.outer.keys() == saved.keys()
    assert all(torch.equal(run.outer[name], saved[name]) for name in saved)
    assert (run.choices["method"], run.settings["outer_steps"]) == ("cg", 4)
    assert "task=quadratic, method=cg: completed after 4 outer steps, value" in repr(run)
    assert f"<td>{run.scores['value']:.4g}</td>" in run._repr_html_()


def test_without_a_folder_a_run_goes_where_the_command_puts_it(tmp_path: Path) -> None:
    folder = tiny(outer_steps=1).folder
    assert folder.parent == tmp_path / "outputs" / "quadratic-reverse"


def test_a_folder_of_own_options_serves_as_with_config_dir(tmp_path: Path) -> None:
    own = tmp_path / "my, own" / "method"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("# mine\ndefaults: [reverse]\nwindow: 2\n")
    run = tiny("method=mine", outer_steps=1, config_dir=own.parent)
    assert (run.choices["method"], run.settings["method.window"]) == ("mine", 2)
    command = json.loads((run.folder / "manifest.json").read_text())["command"]
    assert command.startswith(f"bilevel-run --config-dir '{own.parent}' task=quadratic")
    with pytest.raises(UsageError, match="config_dir to be a folder, got nowhere"):
        tiny(config_dir="nowhere")


def test_replicas_are_one_run_of_the_numbers_that_each_has_alone() -> None:
    many = tiny(outer_steps=3, replicas=2, seed=5, folder="many")
    alone = tiny(outer_steps=3, seed=6, folder="alone")
    assert many.train["seed"].tolist() == [5, 5, 5, 6, 6, 6]
    last = many.eval[many.eval["seed"] == 6]["value"].iloc[-1]
    # Mapped over replicas, sums are taken in another order: float32 has 7 digits.
    assert last == pytest.approx(alone.scores["value"], rel=1e-5)
    assert many.scores["value"] == pytest.approx(many.eval.groupby("seed")["value"].last().mean())
    assert torch.allclose(many.outer["lam"][1], alone.outer["lam"], atol=1e-5)
    assert [path.name for path in many.folders] == ["seed=5", "seed=6"]


# ---- it goes on


def test_a_call_goes_on_where_an_interrupted_one_stopped_and_a_completed_one_comes_again(
    changed: Changed,
) -> None:
    whole = tiny(outer_steps=6, folder="whole")
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    press = lambda: os.kill(os.getpid(), signal.SIGINT)  # noqa: E731 - the button of a notebook
    changed(interrupted_after(3, press))
    with pytest.raises(KeyboardInterrupt) as stop:
        tiny(outer_steps=6, folder="parts")
    assert {number: signal.getsignal(number) for number in before} == before
    where = str(Path("parts").absolute())
    assert stop.value.__notes__ == [f"The same call with folder={where!r} continues the run."]
    manifest = json.loads(Path("parts", "manifest.json").read_text())
    assert manifest["status"] == "interrupted"
    assert torch.load(Path("parts", "checkpoint.pt"), weights_only=True)["step"] == 4

    parts = tiny(outer_steps=6, folder="parts")
    again = tiny(outer_steps=6, folder="parts")
    for run in (parts, again):
        assert same(run.train, whole.train)
        assert same(run.eval, whole.eval)
        assert torch.equal(run.outer["lam"], whole.outer["lam"])
    assert again.train.equals(parts.train)  # with its seconds: nothing was computed again


def test_more_outer_steps_extend_a_completed_run() -> None:
    whole = tiny(outer_steps=6)
    tiny(outer_steps=4, folder="longer")
    assert same(tiny(outer_steps=6, folder="longer").train, whole.train)
    with pytest.raises(UsageError, match="holds a run of 6 outer steps, got outer_steps=4"):
        tiny(outer_steps=4, folder="longer")


def test_another_signal_does_what_it_does_without_a_run_once_the_run_is_saved(
    changed: Changed, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        changed(interrupted_after(1, lambda: os.kill(os.getpid(), signal.SIGTERM)))
        with pytest.raises(KeyboardInterrupt):
            tiny(outer_steps=6, folder="ended")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]
    assert torch.load(Path("ended", "checkpoint.pt"), weights_only=True)["step"] == 2


# ---- what it refuses, and what fails


@pytest.mark.parametrize(
    ("overrides", "settings", "words"),
    [
        (["method=cgg"], {}, "Did you mean 'cg'"),
        ([], {"outer_steps": -3}, "outer_steps >= 1, got outer_steps=-3"),
        (["method=cg,reverse"], {}, "one value for each setting, got 'method=cg,reverse'"),
        (["seed=range(0,3)"], {}, "one value for each setting"),
        (["hydra.mode=MULTIRUN"], {}, "one value for each setting"),
        (["-m"], {}, "got the flag '-m'"),
        (["--config-dir=conf"], {}, "config_dir="),
        (["nonsense"], {}, "nonsense"),
        ([], {"solver": {"_target_": "os.system"}}, "can name classes of bilevel_cli"),
        ([], {"seed": object()}, "run needs seed to be a number"),
        ([], {"seed": "zero"}, "seed needs a whole number, got 'zero'"),
        (["data=digits"], {}, "task=quadratic brings its own data"),
    ],
)
def test_what_the_command_refuses_is_one_exception_without_hydras_traceback(
    overrides: list[str],
    settings: dict[str, Any],
    words: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(UsageError, match=words.replace("(", r"\(")) as refused:
        tiny(*overrides, **settings)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__ or refused.value.__context__ is None
    assert capfd.readouterr() == ("", "")


def test_a_run_that_diverges_is_an_exception_and_its_rows_can_be_read() -> None:
    with pytest.raises(Failed, match=r"Lower optimizer\.lr or solver\.lr") as failed:
        tiny(outer_steps=4, solver={"lr": 1e300}, folder="diverged")
    assert failed.value.status == "diverged"
    assert failed.value.__cause__ is None
    assert {Path(frame.path).name for frame in failed.traceback[1:]} == {
        Path(__file__).name,
        "running.py",
    }
    assert "bilevel_cli.load(" in failed.value.__notes__[0]
    (row,) = bilevel_cli.load("diverged").to_dict("records")
    assert (row["status"], np.isnan(row["value"])) == ("diverged", True)


def test_an_error_of_ones_own_code_is_the_cause_of_the_exception(changed: Changed) -> None:
    def raises() -> None:
        raise ZeroDivisionError("mine")

    changed(interrupted_after(1, raises))
    with pytest.raises(Failed, match="ZeroDivisionError: mine") as failed:
        tiny(outer_steps=4, folder="failed")
    assert isinstance(failed.value.__cause__, ZeroDivisionError)
    assert "mine" in Path("failed", "traceback.txt").read_text()


def test_of_several_processes_none_may_call_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    with pytest.raises(UsageError, match="Use torchrun -m bilevel_cli"):
        tiny()


# ---- what it leaves as it was


def surroundings() -> dict[str, Any]:
    """Everything of the process that a run sets or may set."""
    root, ours = logging.getLogger(), logging.getLogger("bilevel_cli")
    return {
        "environment": dict(os.environ),
        "arguments": (list(sys.argv), os.getcwd()),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "logging": [
            (one.level, one.propagate, list(one.handlers), one.disabled) for one in (root, ours)
        ],
        "hydra": (GlobalHydra.instance().hydra, HydraConfig.instance().cfg),
        "torch": (
            torch.get_default_dtype(),
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            torch.get_float32_matmul_precision(),
            torch.backends.cudnn.benchmark,
            torch.backends.cudnn.allow_tf32,
            torch.is_grad_enabled(),
            torch.get_rng_state().tolist(),
        ),
        "ours": (memory._budget, memory._threads, affine._kernel, autocasting.used()),
    }


SETTINGS = [
    "device.dtype=float32",
    "device.deterministic=true",
    "device.threads=1",
    "device.matmul_precision=medium",
    "device.memory_budget=1 MB",
    "device.linear=torch",
]


MIXED = ["task=hpo", "data=breast_cancer", "data.train=20", "device.precision=bf16-mixed"]


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("more", [[], ["solver.lr=1e300"], ["solver.lr=none"], MIXED])
def test_the_process_is_as_it_was_however_a_run_ends(more: list[str]) -> None:
    tiny(outer_steps=1)  # what is imported, and found once, stays
    before = surroundings()
    try:
        tiny(*SETTINGS, *more, outer_steps=3)
    except (UsageError, Failed):
        assert more
    assert surroundings() == before


def test_a_call_within_a_hydra_application_leaves_it_and_the_next_call_is_of_another_task() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        application = GlobalHydra.instance().hydra
        one = tiny(outer_steps=1)
        other = tiny("task=ridge", "data.train=40", outer_steps=1)
        assert GlobalHydra.instance().hydra is application
        assert compose("config", ["task=meta"]).inner_steps == 5
    assert (one.choices["task"], other.choices["task"]) == ("quadratic", "ridge")
    assert not GlobalHydra.instance().is_initialized()


def test_calls_on_other_threads_take_turns() -> None:
    alone, found = tiny(outer_steps=2), dict[str, bilevel_cli.Run]()

    def call(folder: str) -> None:
        found[folder] = tiny(outer_steps=2, folder=folder)

    threads = [threading.Thread(target=call, args=(folder,)) for folder in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same(run.train, alone.train) for run in found.values())
    assert sorted(found) == ["a", "b"]


def test_torch_is_imported_by_the_first_call_and_not_before() -> None:
    program = (
        "import sys, bilevel_cli\n"
        "bilevel_cli.run, bilevel_cli.load, bilevel_cli.Run, bilevel_cli.UsageError\n"
        "print('torch' in sys.modules)\n"
        "try: bilevel_cli.run('-m')\n"
        "except bilevel_cli.UsageError: print('torch' in sys.modules)\n"
        "run = bilevel_cli.run('task=quadratic', 'device=cpu', outer_steps=1)\n"
        "print('torch' in sys.modules, run.status)"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (found.stdout, found.stderr) == ("False\nFalse\nTrue completed\n", "")


# ---- settings and bars


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, False, 0, -3, 0.1, 1e-5, 1e300, float("inf"), "cg", "a/b-c.d", "/a/b"),
        *("", "null", "True", "10", "1e5", "a b", "a,b", "it's", 'a "b"', "a\\", "\\'", "=x", "~"),
        *("{a}", "[b]", "a:b", "$x", "%", "é\n", ["norms"], [], [1, [2.5, "x,y"], None], {}),
        *({"a": 1, "b": "c d"}, Path("here/it is")),
    ],
)
def test_a_value_comes_out_of_hydras_grammar_as_it_went_in(value: Any) -> None:
    (text,) = assignments({"key": [value]})
    (found,) = OverridesParser.create().parse_overrides([text])
    expected = str(value) if isinstance(value, Path) else value
    # By their representation: True equals 1, and 1 equals 1.0.
    assert repr(found.value()) == repr([expected])


def test_numbers_of_numpy_and_torch_are_numbers_and_dicts_are_the_settings_below() -> None:
    settings = {"seed": np.int64(3), "solver": {"lr": np.float64(0.1), "base": {"a": [1]}}}
    assert assignments(settings) == ["seed=3", "solver.lr=0.1", "solver.base.a=[1]"]
    assert assignments({"x": torch.tensor([1, 2]), "y": {}}) == ["x=[1,2]", "y={}"]


def test_a_notebook_has_a_bar_of_its_own_and_none_is_shown_where_none_is_wanted(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    tiny(outer_steps=2)
    assert capfd.readouterr() == ("", "")  # no terminal
    monkeypatch.setattr(bars, "in_notebook", lambda: True)
    monkeypatch.setattr(bars, "find_spec", lambda name: None)
    tiny(outer_steps=2)
    out, err = capfd.readouterr()
    assert "2/2" in out
    assert err == ""
    tiny(outer_steps=2, progress=False)
    assert capfd.readouterr() == ("", "")
