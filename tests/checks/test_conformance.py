"""Every option of conf/ satisfies what its kind must; found by globbing."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import standins
import torch
from configs import composed, crossed, one_in, options, small
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from runners import runner_in
from torch import Tensor

from bilevel_cli.checks.conformance import check_method, check_solver, check_task
from bilevel_cli.config.options import CONF, pairs
from bilevel_cli.core import trees
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Estimate
from bilevel_cli.core.oracle import Oracle
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.trees import Params
from bilevel_cli.errors import UsageError
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.runs.divergence import Diverged
from bilevel_cli.runs.runner import Runner
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.solvers.momentum import Momentum, MomentumState


@pytest.mark.parametrize("option", options("method"))
def test_methods_conform(option: str) -> None:
    check_method(instantiate(composed("task=quadratic", f"method={option}").method))


@pytest.mark.parametrize("option", options("method/linear_solver"))
def test_implicit_methods_conform_with_every_linear_solver(option: str) -> None:
    overrides = ["task=quadratic", "method=implicit", f"method/linear_solver={option}"]
    check_method(instantiate(composed(*overrides).method))


@pytest.mark.parametrize("option", options("solver"))
def test_solvers_conform(option: str) -> None:
    check_solver(instantiate(composed("task=quadratic", f"solver={option}").solver))


def takes_a_model(task: str) -> bool:
    """Read, not composed: composing takes a tenth of a second, at each collection of the tests."""
    file = OmegaConf.load(CONF / "task" / f"{task}.yaml")
    return {"override /model": None} not in OmegaConf.select(file, "defaults", default=[])


def configuration(*overrides: str) -> DictConfig:
    return composed(*overrides, "device=cpu", "device.dtype=float64", "outer_steps=2")


def runner(directory: Path, *overrides: str) -> Runner:
    return runner_in(configuration(*overrides), directory)


@pytest.mark.parametrize("option", options("task"))
def test_tasks_conform(option: str, tmp_path: Path) -> None:
    config = configuration(f"task={option}", *small(option))
    assert ("model" in config) == takes_a_model(option)
    check_task(runner_in(config, tmp_path).experiment.task)


@pytest.mark.parametrize(("task", "method"), crossed(options("task"), options("method"), 13))
def test_every_method_serves_every_task_or_says_why_not(
    task: str, method: str, tmp_path: Path
) -> None:
    sizes = ["inner_steps=2", *small(task)]
    reason = ""
    try:
        runner(tmp_path, f"task={task}", f"method={method}", *sizes).run()
    except Diverged:
        reason = ""  # served: what it estimates has no end here, such as the minimiser of f - b F
    except (UsageError, RuntimeError) as error:
        reason = str(error)
    # Served, or refused with the names of methods that can.
    assert (tmp_path / "train.csv").exists() != ("method=" in reason)


PAIRS = [(task, data) for task, fitting in pairs().items() for data in fitting]


@pytest.mark.parametrize(("task", "data"), [one_in(3, n, *pair) for n, pair in enumerate(PAIRS)])
def test_every_pair_of_task_and_data_that_is_listed_runs(
    task: str, data: str, tmp_path: Path
) -> None:
    own = [part for part in small(task) if not part.startswith(("data=", "data."))]
    write = getattr(standins, data, None)  # data that need no files have no stand-in
    files = write(tmp_path) if write else []
    run = runner(tmp_path, f"task={task}", f"data={data}", "inner_steps=2", *own, *files)
    assert run.run()
    assert all(path.exists() for path in run.result())


CHOICES = [
    (task, group, option)
    for task in options("task")
    for group in ("solver", "start", "optimizer", "scheduler", "model")
    for option in options(group)
    if group != "model" or takes_a_model(task)
]


# A prime share, so that by default each choice meets some of the tasks, whatever their number.
@pytest.mark.parametrize(
    ("task", "group", "option"),
    [one_in(11, n, *choice) for n, choice in enumerate(CHOICES)],
)
def test_every_choice_serves_every_task_or_says_why_not(
    task: str, group: str, option: str, tmp_path: Path
) -> None:
    sizes = [part for part in small(task) if not part.startswith(f"{group}=")]
    try:
        runner(tmp_path, f"task={task}", f"{group}={option}", *sizes)
        reason = ""
    except UsageError as error:
        reason = str(error)
    # Images are not rows of a table; digits are small; a memory does not survive new episodes; of a
    # task that learns nothing but its solver, nothing is learned with another one; and a zero has
    # no direction.
    known = "^$|needs images|sides >= 2|draws new episodes|needs outer parameters|not zero at the"
    assert re.search(known, reason), reason


class Spoiled(Reverse):
    """Returns a gradient that is attached to nothing but is of the wrong shape."""

    def estimate(self, loop: InnerLoop, outer: Params, data: StepData, carry: Any) -> Estimate:
        found = super().estimate(loop, outer, data, carry)
        return found._replace(grad={name: value.sum() for name, value in found.grad.items()})


@dataclass(frozen=True)
class Impure(Reverse):
    """Remembers outside of its carry."""

    def estimate(self, loop: InnerLoop, outer: Params, data: StepData, carry: Any) -> Estimate:
        found = super().estimate(loop, outer, data, carry)
        outer["lam"].add_(1.0)
        return found


class Sticky(GradientDescent):
    def step(self, oracle: Oracle, state: Any) -> Any:
        return {"inner": trees.scale(0.5, state["inner"]), "extra": torch.zeros(())}


class Rooted(Momentum):
    def init(self, inner: Params) -> MomentumState:
        return {"inner": inner, "velocity": trees.axpy(1.0, inner, inner)}


@pytest.mark.parametrize(
    ("check", "culprit", "sentence"),
    [
        (check_method, Spoiled(None, None), "The gradient has the outer keys and shapes"),
        (check_method, Impure(None, None), "An estimate changes none of its arguments"),
        (check_solver, Sticky(0.1), "A state keeps its structure"),
        (check_solver, Rooted(0.1, 0.5), "The first step reads no memory"),
    ],
)
def test_what_does_not_conform_is_named(check: Any, culprit: Any, sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        check(culprit)


def test_a_task_whose_loss_is_not_scalar_is_named(tmp_path: Path) -> None:
    task = runner(tmp_path, "task=quadratic").experiment.task

    def vector_loss(inner: Params, outer: Params, batch: Any) -> Tensor:
        return inner["z"]

    task.outer_loss = vector_loss  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="Losses are scalars"):
        check_task(task)
