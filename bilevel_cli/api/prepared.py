"""Own losses and named options, made into what a method works on."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from bilevel_cli.api.forms import Form, Loss, Variables, form
from bilevel_cli.api.given import Given, check_losses, check_tensors
from bilevel_cli.api.step_size import safe_step
from bilevel_cli.config.objects import make
from bilevel_cli.config.without_task import composed, own_lr, suggest_lr
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Hypergradient
from bilevel_cli.core.oracle import Oracle
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.requirements import start_is_learned
from bilevel_cli.core.solver import SolverState, Wrapper
from bilevel_cli.core.trees import Params
from bilevel_cli.errors import UsageError
from bilevel_cli.methods.implicit import Implicit


class Choice(NamedTuple):
    """What a user chose: see `bilevel_cli.hypergradient` for each."""

    method: str
    solver: str | None
    start: str | None
    steps: int
    lr: float | None
    settings: Mapping[str, Any]


class Prepared(NamedTuple):
    """What a method works on.

    Attributes:
        task: The problem.
        loop: The inner loop on it.
        method: The method.
        steps: Inner steps, at least one.
        lr: The step size of the solver; None where its yaml has one of its own.
        outer: The outer parameters, those that start and solver learn among them.
        data: The data of the steps.
    """

    task: Given
    loop: InnerLoop
    method: Hypergradient[Any]
    steps: int
    lr: float | None
    outer: Params
    data: StepData


class Resting(Wrapper):
    """A solver that stays where it begins: the inner problem is solved already."""

    def step(self, oracle: Oracle, state: SolverState) -> SolverState:
        del oracle
        return state


def forms(inner: Variables, outer: Variables) -> tuple[Form, Form]:
    """The forms of what was given.

    Raises:
        UsageError: It cannot serve.
    """
    found = form("inner", inner), form("outer", outer)
    if not found[0].params:
        raise UsageError("hypergradient needs inner parameters, got none. Give a tensor.")
    check_tensors(*found)
    return found


def prepared(
    inner_loss: Loss, outer_loss: Loss, inner: Form, outer: Form, choice: Choice
) -> Prepared:
    """Makes the parts. What the method asks of the problem (`Hypergradient.check`) is not checked.

    Torch's default type should be that of the parameters.

    Raises:
        UsageError: An option, a setting or a loss is wrong.
    """
    _check_numbers(choice)
    chosen = {key: getattr(choice, key) for key in ("method", "solver", "start")}
    config = composed({k: v for k, v in chosen.items() if v is not None}, choice.settings)
    task = Given(inner_loss, outer_loss, inner, outer)
    lr = None if own_lr(config, choice.lr) else choice.lr
    suggest_lr(config, 1.0 if lr is None else lr)
    # A solver that shrinks, projects or decays knows its own loss: f with its penalty.
    loop = InnerLoop(task, make(config, "solver"), make(config, "start"))
    data = task.sample(max(choice.steps, 1), torch.Generator())
    everything = {**loop.outer_init(data, task.outer.params), **task.outer.params}
    check_losses(task, learned=len(everything) > len(outer.params))
    if lr is None and not own_lr(config, None):
        lr = safe_step(loop.problem, inner.params, everything, data.inner_at(-1))
        suggest_lr(config, lr)
        loop = InnerLoop(task, make(config, "solver"), loop.start)
        everything = {**loop.outer_init(data, outer.params), **outer.params}
    method: Hypergradient[Any] = make(config, "method")
    if outer.params and start_is_learned in method.requires:
        raise UsageError(
            f"method={choice.method} learns where the inner solve begins and nothing else, got "
            "outer parameters that it would not see. Give outer={}, or use method=cg or "
            "method=reverse."
        )
    if choice.steps == 0:
        loop = _resting(task, loop, method, choice.method)
    clash = set(outer.params) & set(loop.outer_init(data, outer.params))
    if clash:
        raise UsageError(
            f"solver={choice.solver} learns settings of its own, got outer parameters of the same "
            f"name: {', '.join(sorted(clash))}. Rename them."
        )
    if extras := method.extras(max(choice.steps, 1)):
        extra = task.sample(extras, torch.Generator()).inner
        data = data._replace(extra=extra)
    return Prepared(task, loop, method, max(choice.steps, 1), lr, everything, data)


def _check_numbers(choice: Choice) -> None:
    if isinstance(choice.steps, bool) or not isinstance(choice.steps, int) or choice.steps < 0:
        raise UsageError(
            f"hypergradient needs steps to be a whole number >= 0, got {choice.steps!r}. 0 says "
            "that inner is the solution already."
        )
    if choice.lr is not None and not (isinstance(choice.lr, int | float) and choice.lr > 0):
        raise UsageError(f"hypergradient needs lr > 0 or None, got {choice.lr!r}.")


def _resting(task: Given, loop: InnerLoop, method: Hypergradient[Any], name: str) -> InnerLoop:
    if not isinstance(method, Implicit):
        raise UsageError(
            f"steps=0 says that inner is the solution, and method={name} needs inner steps. Use an "
            "implicit method such as method=cg, or steps=100."
        )
    return InnerLoop(task, Resting(loop.solver), loop.start)
