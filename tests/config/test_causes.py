"""Why a user's class cannot be built reaches the user, whatever it raises and whatever it is."""

from pathlib import Path
from typing import Any

import pytest
from configs import composed
from omegaconf import OmegaConf

from bilevel_cli.commands.explain import explain
from bilevel_cli.config.objects import make
from bilevel_cli.errors import Failed, UsageError
from bilevel_cli.runs import entry

CLASSES = """from bilevel_cli.data.digits import Digits as Data
class Mine{base}:
    def __init__(self, *given, **rest):
        {body}
"""
QUICK = ["device=cpu", "outer_steps=1", "inner_steps=2"]
ON_DIGITS = ["task=hpo", "method=none", "data.train=20"]
PARTS = {
    "method": ["task=quadratic"],
    "task": ["task=quadratic"],
    "solver": ["task=quadratic"],
    "start": ["task=quadratic"],
    "optimizer": ["task=quadratic"],
    "scheduler": ["task=quadratic", "scheduler=cosine"],
    "metrics.norms": ["task=quadratic", "metrics=[norms]"],
    "loggers.tensorboard": ["task=quadratic", "loggers=[tensorboard]"],
    "method.linear_solver": ["task=quadratic", "method=cg"],
    "data": ON_DIGITS,
    "model": ON_DIGITS,
    "task.penalty": ON_DIGITS,
}
RAISED = {
    'open("prior.npy")': "FileNotFoundError: [Errno 2] No such file or directory: 'prior.npy'",
    '{}["prior"]': "KeyError: 'prior'",
    "assert False": "AssertionError without a message",
    'raise ValueError("prior\\nis wrong")': "ValueError: prior is wrong",
    "import priorlib": "ModuleNotFoundError: No module named 'priorlib'",
    'raise RuntimeError("x" * 999 + "prior")': "xprior",
    'raise SystemExit("prior")': "SystemExit: prior",
    'raise BaseException("prior")': "BaseException: prior",
    'raise RuntimeError("no prior") from KeyError("file")': "no prior (",
    'raise ExceptionGroup("two", [OSError("prior")])': "from OSError: prior",
}


def own(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, body: str, base: str = "") -> str:
    """The dotted name of a class whose constructor does what `body` says."""
    (folder / f"{name}.py").write_text(CLASSES.format(base=base, body=body))
    monkeypatch.syspath_prepend(folder)
    return f"{name}.Mine"


def said(config: Any, folder: Path) -> str:
    """What the command says of a run of this configuration."""
    with pytest.raises((UsageError, Failed)) as refused:
        entry.run(config, folder / "run", {})
    return explain(refused.value)


@pytest.mark.parametrize("part", PARTS)
def test_the_part_the_error_and_its_line_are_named(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = composed(*QUICK, *PARTS[part])
    name, base = f"cause_{part.replace('.', '_')}", "(Data)" if part == "data" else ""
    target = own(tmp_path, monkeypatch, name, 'open("prior.npy")', base)
    OmegaConf.update(config, f"{part}._target_", target, force_add=True)
    shown = said(config, tmp_path)
    # Optimizer and scheduler are made with the parameters of the run, which is then under way.
    assert shown.startswith((part.partition(".")[0], "FileNotFoundError"))
    assert "FileNotFoundError: [Errno 2] No such file or directory: 'prior.npy'" in shown
    assert ".py, line 4, in __init__" in shown
    assert len(shown) <= 400


@pytest.mark.parametrize("body", RAISED)
def test_whatever_is_raised_is_told(
    body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"cause_{list(RAISED).index(body)}"
    config = OmegaConf.create({"solver": {"_target_": own(tmp_path, monkeypatch, name, body)}})
    with pytest.raises(UsageError) as refused:
        make(config, "solver")
    shown = explain(refused.value)
    assert RAISED[body] in shown
    assert f"{name}.py, line 4, in __init__" in shown
    assert len(shown) <= 400


def test_an_error_that_came_of_another_one_names_that_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = 'raise RuntimeError("no prior") from KeyError("file")'
    target = own(tmp_path, monkeypatch, "cause_chain", body)
    with pytest.raises(UsageError, match=r"no prior \(.*\), from KeyError: 'file'$"):
        make(OmegaConf.create({"solver": {"_target_": target}}), "solver")


def test_a_module_that_exits_when_it_is_imported_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cause_exit.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=r"got cause_exit.Mine: SystemExit: 0 \(.*line 2"):
        make(OmegaConf.create({"solver": {"_target_": "cause_exit.Mine"}}), "solver")
