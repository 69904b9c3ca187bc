"""What a task does not suggest is named with who reads it, the file that lacks it and the line."""

from pathlib import Path

import pytest
from commands import bilevel_run, exit_code
from configs import composed
from omegaconf import OmegaConf

from bilevel_cli.commands import check
from bilevel_cli.config.resolved import check_resolves
from bilevel_cli.errors import UsageError

TASK = """\
# @package _global_
# a task that suggests nothing about inner steps
defaults:
  - override /data: null
  - override /model: null

task:
  _target_: bilevel_cli.tasks.examples.quadratic.Quadratic
  inner_dim: 4
  outer_dim: 2
  noise: 0.1

suggest:
  outer_steps: 3
  outer_lr: 0.1
"""
SOLVER = "# a step size by another name\n_target_: bilevel_cli.solvers.gd.GradientDescent\nlr: {}\n"


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "conf" / "task").mkdir(parents=True)
    (tmp_path / "conf" / "solver").mkdir()
    (tmp_path / "conf" / "task" / "mine.yaml").write_text(TASK)
    (tmp_path / "conf" / "solver" / "named.yaml").write_text(SOLVER.format("${suggest.pace}"))
    (tmp_path / "conf" / "solver" / "without.yaml").write_text(SOLVER.format("null"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "conf"


ALL = ["inner_steps=2", "eval_every=1"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            [],
            "task=mine suggests no inner_steps (read by inner_steps), no eval_every (read by "
            "eval_every), no inner_lr (read by solver.lr of solver=gd). Add the lines "
            "`inner_steps: 20`, `eval_every: 50`, `inner_lr: 0.1` below `suggest:` in FILE, as "
            "task=quadratic has it; or set inner_steps=... eval_every=... solver.lr=... for this",
        ),
        ([*ALL], "no inner_lr (read by solver.lr of solver=gd). Add the line `inner_lr: 0.1` "),
        ([*ALL, "solver=gd_decay"], "no inner_lr (read by solver.lr.initial of solver=gd_decay)"),
        ([*ALL, "solver=bda"], "no inner_lr (read by solver.base.lr of solver=bda)"),
        (
            [*ALL, "solver=named"],
            "no pace (read by solver.lr of solver=named). Add the line `pace: <a number>` below "
            "`suggest:` in FILE; or set solver.lr=... for this run.",
        ),
        (
            [*ALL, "solver=without", "method=neumann"],  # ${solver_lr:}
            "no inner_lr (read by method.linear_solver.step_size of method=neumann).",
        ),
        ([*ALL, "solver.lr=${speed}"], "solver.lr reads speed, which nothing sets."),
        ([*ALL, "solver.lr=${scaled:fast}"], "A scaled step size needs a number, got 'fast'"),
    ],
)
def test_a_run_names_what_its_task_does_not_suggest(
    conf: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    overrides: list[str],
    message: str,
) -> None:
    arguments = ["--config-dir", "conf", "task=mine", *overrides, "hydra.run.dir=run"]
    assert bilevel_run(monkeypatch, *arguments) == 2
    said = capsys.readouterr().err
    assert message.replace("FILE", "conf/task/mine.yaml") in said
    assert said.count("\n") == 1


def test_a_run_that_needs_no_suggestion_is_not_refused(
    conf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--config-dir", "conf", "task=mine", *ALL, "solver=adam", "hydra.run.dir=run"]
    assert bilevel_run(monkeypatch, *arguments) == 0


def test_a_check_names_what_it_reads_and_nothing_else(
    conf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config-dir", "conf", "task=mine", "method=reverse", "inner_steps=2"]
    assert exit_code("bilevel-check", check.main, monkeypatch, *arguments) == 2
    said = capsys.readouterr().err
    assert "below `suggest:` in conf/task/mine.yaml, as task=quadratic has it" in said
    assert "no inner_lr (read by solver.lr of solver=gd)" in said
    assert "eval_every" not in said
    assert exit_code("bilevel-check", check.main, monkeypatch, *arguments, "solver.lr=0.1") == 0


def test_every_setting_that_conf_reads_of_a_suggestion_is_named_where_it_is_missing() -> None:
    config = composed("task=quadratic", "method=neumann")
    suggested = list(config.suggest)
    config.suggest = {}
    with pytest.raises(UsageError) as caught:
        check_resolves(config, {"task": "quadratic"})
    for name in suggested:
        assert f"`{name}: {composed('task=quadratic').suggest[name]}`" in str(caught.value)


def test_a_run_without_a_task_is_told_to_choose_one() -> None:
    config = composed("task=quadratic")
    OmegaConf.update(config, "suggest", None)
    OmegaConf.update(config, "task", None)
    with pytest.raises(UsageError, match=r"A run needs task=\.\.\., got null"):
        check_resolves(config, {})
