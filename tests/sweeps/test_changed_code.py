"""Code that changes between two calls of a sweep is told of."""

import re
from pathlib import Path

import pytest
from commands import bilevel_run

METHOD = """
from bilevel_cli import Hypergradient
from bilevel_cli.methods.reverse import Reverse
from factor import FACTOR

class Mine(Reverse):
    pass
"""
QUICK = ["--config-dir=conf", "-m", "task=quadratic", "device=cpu", "method=mine,reverse"]
QUICK += ["outer_steps=2", "inner_steps=3", "hydra.sweep.dir=sweep"]
QUICK += ["hydra.sweep.subdir=${hydra:runtime.choices.method}"]


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method in a file of one's own, which imports another one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("conf/method").mkdir(parents=True)
    Path("conf/method/mine.yaml").write_text("defaults: [reverse]\n_target_: ownmethod.Mine\n")
    Path("ownmethod.py").write_text(METHOD)
    Path("factor.py").write_text("FACTOR = 1\n")


def test_code_that_changed_since_jobs_ran_is_named_with_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bilevel_run(monkeypatch, *QUICK) == 0
    for file, told in (
        ("", []),
        ("factor.py", ["factor"]),
        ("ownmethod.py", ["factor", "ownmethod"]),
    ):
        if file:
            Path(file).write_text(Path(file).read_text() + "# otherwise\n")
        capsys.readouterr()
        assert bilevel_run(monkeypatch, *QUICK) == 0
        said = capsys.readouterr().out
        assert (
            re.findall(r"(\w+) has changed since 1 of the jobs ran, such as mine\.", said) == told
        )
