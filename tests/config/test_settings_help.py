"""Every setting under conf/ says what it is for."""

import inspect
import sys
from pathlib import Path

import pytest
from configs import composed, options
from hydra.utils import get_object
from omegaconf import OmegaConf

from bilevel_cli.config import constructors
from bilevel_cli.config.options import CONF, groups, keys
from bilevel_cli.config.settings_help import general, settings

TARGETS = sorted(
    {
        line.split()[1]
        for path in CONF.rglob("*.yaml")
        for line in path.read_text().splitlines()
        if line.strip().startswith("_target_:")
    }
)


@pytest.mark.parametrize("group", groups())
def test_every_setting_is_described(group: str) -> None:
    for option in options(group):
        silent = [one.key for one in settings(group, option) if not one.comment]
        assert not silent, f"{group}={option}: add a comment in the yaml, or in Args of the class"


def test_every_general_setting_is_described() -> None:
    assert [one.key for one in general() if not one.comment] == []
    assert {"seed", "outer_steps", "resume"} <= {one.key for one in general()}


@pytest.mark.parametrize("target", TARGETS)
def test_a_constructor_read_from_its_source_takes_what_python_says(target: str) -> None:
    read = constructors.parameters(target)
    signature = inspect.signature(get_object(target)).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in signature.values())
    assert (read is None and open_ended) or list(read or {}) == list(signature)


@pytest.mark.parametrize("choice", ["solver=gd", "solver=gd_learned_lr", "task=meta", "data=table"])
def test_the_settings_of_an_option_are_those_that_hydra_composes(choice: str) -> None:
    group, _, option = choice.partition("=")
    node = OmegaConf.select(composed(choice), group)
    taken = [f"{group}.{key}" for key in keys(OmegaConf.to_container(node, resolve=False))]
    found = {one.key for one in settings(group, option)}
    assert {key for key in taken if "._" not in key and key != "solver.lr"} == {
        key for key in found if key.startswith(f"{group}.") and key != "solver.lr"
    }


def test_a_comment_in_the_yaml_comes_before_the_docstring(tmp_path: Path) -> None:
    (tmp_path / "solver").mkdir()
    (tmp_path / "solver" / "mine.yaml").write_text(
        "# my own\n_target_: bilevel_cli.solvers.momentum.Momentum\n"
        "lr: 0.1   # how far a step goes\nmomentum: 0.9\n"
    )
    found = {one.key: one for one in settings("solver", "mine", [tmp_path])}
    assert found["solver.lr"] == ("solver.lr", "0.1", "how far a step goes")


def test_a_class_outside_of_the_package_is_read_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unread.py").write_text(
        "raise SystemExit\n\nclass Mine:\n"
        "    '''A method.\n\n    Args:\n        pairs: How many.\n    '''\n"
        "    def __init__(self, pairs: int) -> None: ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    read = constructors.parameters("unread.Mine")
    assert read is not None
    assert {name: one.description for name, one in read.items()} == {"pairs": "How many."}
    assert "unread" not in sys.modules
