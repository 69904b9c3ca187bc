"""Every option under conf/ builds, describes itself, and is the only home of its numbers."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from configs import class_of, composed, settings_of
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from bilevel_cli.config import options
from bilevel_cli.config.options import CONF

# What is passed to the constructors that name it.
GIVEN = {"device", "data", "model", "generator", "input_shape", "num_outputs"}
GIVEN |= {"params", "optimizer"}
GIVEN_TO_PARTS = {"x", "y", "box"}  # what a task passes to a part of its own, a partial option
FILES = [path.relative_to(CONF).with_suffix("") for path in sorted(CONF.rglob("*.yaml"))]
OPTIONS = [(path.parent.as_posix(), path.name) for path in FILES if path.parent.parts]
# Those of which several can be chosen.
LISTS = re.findall(r"^  - (\w+): \[\]", (CONF / "config.yaml").read_text(), re.MULTILINE)
TARGETS = [
    (group, option)
    for group, option in OPTIONS
    if group.split("/")[0] not in ("hydra", "experiment")
]


def node_of(group: str, option: str) -> DictConfig:
    node: Any = settings_of(group, option)
    inherits = "defaults:" in (CONF / group / f"{option}.yaml").read_text()
    if "_target_" in node and not inherits:
        return node  # composing takes a hundred times as long
    value = f"[{option}]" if group in LISTS else option
    config = composed(*parent_of(group), f"{group}={value}")
    node = OmegaConf.select(config, group.replace("/", "."))
    return node[option] if group in LISTS else node


def parent_of(group: str) -> list[str]:
    """The choice of an option in whose defaults the nested group stands."""
    root, *inside = group.split("/")
    if not inside:
        return []
    default = re.compile(rf"^ +- (/?{root}/)?{inside[0]}(@\S+)?: ", re.MULTILINE)
    files = sorted((CONF / root).glob("*.yaml"))
    return [f"{root}={next(path.stem for path in files if default.search(path.read_text()))}"]


@pytest.mark.parametrize(("group", "option"), TARGETS)
def test_an_option_names_every_argument_of_its_class(group: str, option: str) -> None:
    node = node_of(group, option)
    target = get_object(node._target_)
    assert inspect.getdoc(target), f"{target.__name__} has no docstring"
    if not target.__module__.startswith("bilevel_cli"):
        return
    parameters = inspect.signature(target).parameters
    given = GIVEN | GIVEN_TO_PARTS if "_partial_" in node else GIVEN
    assert {str(key) for key in node} - {"_target_", "_partial_"} == set(parameters) - given
    defaults = [p.name for p in parameters.values() if p.default is not p.empty]
    assert not defaults, f"{target.__name__} gives defaults to {defaults}; conf/ is their only home"


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_an_option_begins_with_the_line_that_describes_it(group: str, option: str) -> None:
    if not group.startswith("hydra"):
        assert re.search(rf"^  {option} +\S.{{10}}", options.describe(group, []), re.MULTILINE)


@pytest.mark.parametrize("option", [option for group, option in OPTIONS if group == "experiment"])
def test_an_experiment_composes(option: str) -> None:
    OmegaConf.to_container(composed(f"experiment={option}"), resolve=False)


def test_a_method_chooses_its_start_and_the_user_overrules_it() -> None:
    assert "learned" in composed("task=meta", "method=iaptt").start._target_
    assert "cold" in composed("task=meta", "method=iaptt", "start=cold").start._target_
    assert "projected" in composed("task=toy").solver._target_
    assert "adam" in composed("task=toy", "solver=adam").solver._target_


def test_a_step_size_suggested_for_gradient_descent_does_not_land_in_adam() -> None:
    assert composed("task=meta").solver.lr == 0.4
    assert composed("task=meta", "solver=adam").solver.lr == 0.001


def test_a_wrapped_solver_takes_any_base() -> None:
    config = composed("task=toy", "solver@solver.base=nesterov")
    assert config.solver.base._target_.endswith("Nesterov")
    assert config.solver.onto.high == 2.0


def test_conf_is_found_in_a_checkout() -> None:
    assert Path(__file__).parents[2] / "conf" == CONF


def test_listing_options_does_not_import_torch() -> None:
    code = (
        "import sys; sys.argv = ['bilevel-run', 'method=?']\n"
        "from bilevel_cli.commands.run import main; main(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ, capture_output=True)


def test_options_of_a_kind_are_told_by_their_files_and_by_those_that_they_extend() -> None:
    kind = class_of("task", "ridge").needs
    assert options.options_of_kind("data", kind) == options.pairs()["ridge"] != []
    device = class_of("device", "cpu")
    assert options.options_of_kind("device", device) == options.names("device")  # two extend one
