"""bilevel-run as a user meets it."""

import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from commands import LIBRARIES, bilevel_run, numbers
from configs import composed

from bilevel_cli import __version__
from bilevel_cli.config.options import CONF
from bilevel_cli.sweeps import job

QUICK = ["task=quadratic", "outer_steps=20", "hydra.output_subdir=null"]
Captured = pytest.CaptureFixture[str]
HANGS = 600  # seconds after which a command that should end soon is taken to wait for ever


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


def start(*arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "bilevel_cli", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


ASKED = """
import atexit, sys
from bilevel_cli.commands import run
atexit.register(lambda: print("modules:", *sys.modules))
run.main()
"""


@pytest.mark.parametrize("argument", ["--help", "--version", "method=?"])
def test_questions_are_answered_without_the_libraries_of_runs(argument: str) -> None:
    # Importing torch takes longer than all the rest. test_timing.py has the seconds.
    command = [sys.executable, "-c", ASKED, argument]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stderr == ""
    text, _, modules = answer.stdout.rpartition("modules:")
    assert len(text.splitlines()) > (argument != "--version")
    assert "hydra" in modules.split()
    assert not set(modules.split()) & {"torch", *LIBRARIES}


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    assert bilevel_run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"bilevel-run {__version__}\n"


def test_a_question_mark_lists_the_options(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    assert bilevel_run(monkeypatch, "task=?", "method/linear_solver=?") == 0
    out = capsys.readouterr().out
    assert re.search(r"^  meta +few-shot classification", out, re.MULTILINE)
    assert re.search(r"^  cg +conjugate gradient", out, re.MULTILINE)
    assert bilevel_run(monkeypatch, "taks=?") == 0
    assert "Did you mean 'task'?" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["task=metta"], "task has no option 'metta'. Did you mean 'meta'?"),
        (["tsk=meta"], "there is no setting 'tsk'. Did you mean 'task'?"),
        ([*QUICK, "solver.lrr=1"], "there is no setting 'solver.lrr'. Did you mean 'solver.lr'?"),
        ([*QUICK, "solver.lr=abc"], "solver.lr needs a number or a Learned, got 'abc'."),
        ([*QUICK, "solver.lr=-1"], "needs a finite step size lr > 0, got lr=-1"),
        ([*QUICK, "solver.lr=nan"], "needs a finite step size lr > 0, got lr=nan"),
        ([*QUICK, "metrics=[gap]"], "metrics has no option 'gap'"),
        ([*QUICK, "method/linear_solver=cg"], "nothing in this configuration takes 'method/linear"),
        (
            ["task=meta", "data=breast_cancer"],
            "data=digits, data=image_folder, data=mini_imagenet, data=omniglot",
        ),
        ([*QUICK, "hydra.run.dir=/dev/null/x"], "Not a directory: '/dev/null/x'"),
        (["task"], "task needs a value: task=... See bilevel-run task=?"),
        (["reweight"], "'reweight' alone says too little. Did you mean task=reweight?"),
        (["task=meta", "rewieght"], "Did you mean task=reweight?"),
        (["cg"], "Did you mean method=cg or method/linear_solver=cg?"),
        (["outer_steps"], "outer_steps needs a value: outer_steps=..."),
        (["xyzzy"], "bilevel-run takes group=option and key=value, got 'xyzzy'."),
        (["task=reweight,meta"], "Add -m to run each: bilevel-run -m task=reweight,meta"),
        ([*QUICK, "seed=1,2"], "Add -m to run each: bilevel-run -m seed=1,2"),
        ([*QUICK, "seed=range(1,3)"], "Add -m to run each: bilevel-run -m seed=range(1,3)"),
        ([*QUICK, "solver.learning_rate=1"], "Did you mean 'solver.lr'?"),
        ([*QUICK, "lr=1"], "Did you mean 'solver.lr' or 'optimizer.lr'?"),
        ([*QUICK, "solver.inner_steps=3"], "Did you mean 'inner_steps'?"),
        ([*QUICK, "epochs=3"], "Did you mean 'outer_steps'?"),
        (
            [*QUICK, "data.drop=[Größe,b]"],
            "'ö' need quotes that reach Hydra.\nWrite \"data.drop=['Größe',b]\".",
        ),
        (
            [*QUICK, "hydra.run.dir=seed=1/r"],
            "'=' need quotes that reach Hydra.\nWrite \"hydra.run.dir='seed=1/r'\".",
        ),
        ([*QUICK, "+optimizer.params=[1]"], "optimizer takes lr, betas,"),
        ([*QUICK, "+task.device=1"], "task takes inner_dim, outer_dim, noise, got device."),
        (["task=null"], "Config group override must be a string or a list"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_gets_one_to_three_lines_and_exit_code_2(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    assert bilevel_run(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert 1 <= len(error.splitlines()) <= 3
    assert "Traceback" not in error


def test_a_diverging_run_exits_with_1(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    assert bilevel_run(monkeypatch, *QUICK, "start=cold", "solver.lr=1e9") == 1
    error = capsys.readouterr().err
    assert error.startswith("bilevel-run: Diverged. At step 10 there is no finite outer_loss")
    assert len(error.splitlines()) == 1


def test_the_files_are_named_at_the_end(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    assert bilevel_run(monkeypatch, *QUICK, "hydra.run.dir=here") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == "Wrote train.csv, eval.csv, outer.pt to here"
    assert all((Path("here") / name).exists() for name in ("train.csv", "eval.csv", "outer.pt"))


@pytest.mark.parametrize("methods", ["*ct", pytest.param("*", marks=pytest.mark.slow)])
def test_a_sweep_over_methods_completes_where_they_do_not_refuse(
    methods: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep_options = ["-m", f"method=glob({methods})", "hydra.sweep.dir=sweep"]
    assert bilevel_run(monkeypatch, *QUICK, *sweep_options) == 1
    manifests = [json.loads(path.read_text()) for path in Path("sweep").glob("*/manifest.json")]
    assert len(manifests) == len(list((CONF / "method").glob(f"{methods}.yaml")))
    refused = [m["error"] for m in manifests if m["status"] != "completed"]
    assert len(refused) == 1  # direct: the outer loss of the quadratic does not contain lambda
    assert all(re.search("Direct needs .* Use method=", error) for error in refused)


def test_a_failing_job_neither_stops_nor_hides_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    arguments = ["-m", "solver.lr=-1,1e9,0.1", "start=cold", "hydra.sweep.dir=sweep"]
    assert bilevel_run(monkeypatch, *QUICK, *arguments) == 1
    error = capsys.readouterr().err
    assert "2 of the jobs failed:" in error
    assert re.search(r"  solver.lr=-1: GradientDescent needs", error)
    assert re.search(r"  solver.lr=1000000000.0: Diverged. At step 10", error)
    assert len(list(Path("sweep").glob("*lr=0.1*/eval.csv"))) == 1


def test_a_job_with_replicas_that_fail_is_one_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    arguments = ["-m", "solver.lr=1e9,0.1", "start=cold", "replicas=2", "hydra.sweep.dir=sweep"]
    assert bilevel_run(monkeypatch, *QUICK, *arguments) == 1
    error = capsys.readouterr().err
    assert "1 of the jobs failed:" in error
    assert re.search(r"  solver.lr=1000000000.0: 2 of 2 replicas failed. seed=0", error)
    assert len(list(Path("sweep").glob("*lr=0.1*/seed=*/eval.csv"))) == 2


def test_the_folder_of_a_job_without_settings_to_name_has_a_name() -> None:
    assert job.slug("") == "job"


@pytest.mark.parametrize("overrides", ["a=../../x,b=1", "data.root=/tmp/x", "..", "x" * 5000, "/"])
def test_the_folder_of_a_job_stays_inside_the_sweep(overrides: str) -> None:
    name = job.slug(overrides)
    assert 0 < len(name.encode()) <= 200
    assert name == Path(name).name


def test_without_arguments_the_command_shows_three_examples_that_compose(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    assert bilevel_run(monkeypatch) == 0
    shown = capsys.readouterr().out.partition("Examples:")[2].partition("\n\n")[0]
    examples = re.findall(r"^  bilevel-run ((?:-m )?(?:\S+=\S+ ?)+)", shown, re.MULTILINE)
    assert len(examples) == 3
    for example in examples:
        composed(*example.replace("-m ", "").replace("cg,reverse", "cg").split())
    assert not list(Path().iterdir())


def test_help_is_as_wide_as_the_terminal(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    texts = {}
    for width in ("60", "80", "200"):
        monkeypatch.setenv("COLUMNS", width)
        assert bilevel_run(monkeypatch, "--help") == 0
        assert bilevel_run(monkeypatch, "task=distill?") == 0
        texts[width] = capsys.readouterr().out
    for width in ("80", "200"):
        assert max(map(len, texts[width].splitlines())) <= int(width)
    assert len(texts["200"].splitlines()) < len(texts["80"].splitlines())
    assert texts["60"].split() == texts["200"].split()


def test_a_question_mark_after_an_option_lists_its_settings(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    assert bilevel_run(monkeypatch, "solver=gd?", "task/noise=pair?") == 0
    out = capsys.readouterr().out
    assert "  solver.lr=${suggest.inner_lr}\n      Step size." in out
    assert "  task.noise.share=0.4\n      above 1/2 the wrong class is the more frequent" in out
    assert bilevel_run(monkeypatch, "solver=gdd?") == 0
    assert "Did you mean 'gd'?" in capsys.readouterr().out


def test_flags_may_stand_between_overrides(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, tmp_path: Path
) -> None:
    (tmp_path / "mine" / "method").mkdir(parents=True)
    (tmp_path / "mine" / "method" / "own.yaml").write_text("# my own\ndefaults: [es]\npairs: 77\n")
    orders = [
        ["task=meta", "--cfg", "job", "-cd", "mine", "method=own", "--resolve", "-p", "method"],
        [
            "method=own",
            "--config-dir=mine",
            "-c",
            "job",
            "task=meta",
            "--package=method",
            "--resol",
        ],
        ["-cd", "mine", "--resolve", "method=own", "-p", "method", "task=meta", "-c=job"],
    ]
    shown = []
    for order in orders:
        assert bilevel_run(monkeypatch, *order) == 0
        shown.append(capsys.readouterr().out)
    assert "pairs: 77" in shown[0]
    assert shown[0] == shown[1] == shown[2]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("task=quad", ["task=quadratic"]),
        ("method=cg,rever", ["method=cg,reverse", "method=cg,reverse_implicit"]),
        ("-m method=cg,reverse,cg,neu", ["method=cg,reverse,cg,neumann"]),
        ("task=quadratic --cfg job solver.l", ["solver.lr="]),
        ("method=cg,reverse -m optimizer.l", ["optimizer.lr="]),
        ("--config-dir mine method=cg,own_", ["method=cg,own_method"]),
    ],
)
def test_tab_completion_knows_options_and_settings(
    line: str, found: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    Path("mine/method").mkdir(parents=True)
    Path("mine/method/own_method.yaml").write_text("defaults: [es]\n")
    monkeypatch.setenv("COMP_LINE", f"bilevel-run {line}")
    for shell in ("bash", "fish"):
        assert bilevel_run(monkeypatch, "-sc", f"query={shell}") == 0
        assert capsys.readouterr().out.split() == found


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_tab_completion_is_installed_as_the_help_says(
    shell: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    assert bilevel_run(monkeypatch, "--help") == 0
    asked = re.search(rf"^  {shell} .*bilevel-run (-sc install=\w+)", capsys.readouterr().out, re.M)
    assert asked
    assert bilevel_run(monkeypatch, *asked[1].split()) == 0
    script = capsys.readouterr().out
    assert "bilevel-run" in script
    if found := shutil.which(shell):
        parsed = subprocess.run([found, "-n"], input=script, capture_output=True, text=True)
        assert (parsed.returncode, parsed.stderr) == (0, "")


LONG = ["task=quadratic", "method=cg", "method.warm_adjoint=true", "outer_steps=400"]
LONG += ["log_every=1", "eval_every=7", "save_every=5"]


def wait_for_rows(folder: Path, count: int) -> None:
    deadline = time.monotonic() + HANGS
    path = folder / "train.csv"
    while not path.exists() or len(path.read_bytes().splitlines()) <= count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_killed_at_a_random_moment_a_run_ends_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    # One moment here: tests/endurance/test_kills.py has many.
    process = start(*LONG, f"hydra.run.dir={killed}")
    wait_for_rows(killed, random.Random(0).randrange(20, 100))
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    for folder in (whole, killed):  # in this process: another takes seconds to import torch
        assert bilevel_run(monkeypatch, *LONG, f"hydra.run.dir={folder}") == 0
    for name in ("train.csv", "eval.csv"):
        assert numbers(whole / name) == numbers(killed / name)
    results = [torch.load(folder / "outer.pt") for folder in (whole, killed)]
    assert torch.equal(results[0]["lam"], results[1]["lam"])


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR2, 0)]
)
def test_a_stopped_run_says_so_and_continues(signum: int, code: int, tmp_path: Path) -> None:
    arguments = [*LONG, f"hydra.run.dir={tmp_path}", "outer_steps=100000", "log_every=10"]
    process = start(*arguments)
    wait_for_rows(tmp_path, 3)
    process.send_signal(signum)
    _, error = process.communicate(timeout=HANGS)
    assert process.returncode == code
    assert "Stopping after this step" in error
    assert "Traceback" not in error
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["status"] == "interrupted"
    step = torch.load(tmp_path / "checkpoint.pt")["step"]
    assert step >= 30
