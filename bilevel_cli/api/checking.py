"""Whether hypergradients are right: those of the tasks of conf/, and those of own losses."""

from collections.abc import Iterable, Mapping
from typing import Any, overload

import pandas as pd
import torch

from bilevel_cli.api.forms import Form, Loss, Variables
from bilevel_cli.api.prepared import Choice, forms, prepared
from bilevel_cli.checks import verdict
from bilevel_cli.checks.verdict import Finding
from bilevel_cli.commands.check import rows
from bilevel_cli.commands.explain import explain
from bilevel_cli.config.application import hydra_apart
from bilevel_cli.core.dtypes import computing_in
from bilevel_cli.errors import UsageError
from bilevel_cli.machine.device import settings_restored
from bilevel_cli.nn.attention import exact_attention


@overload
def check(*overrides: str, config_dir: str | None = None) -> pd.DataFrame: ...


@overload
def check(
    inner_loss: Loss,
    outer_loss: Loss,
    inner: Variables,
    outer: Variables,
    method: str | Iterable[str] = "cg",
    solver: str | None = None,
    steps: int = 100,
    *,
    lr: float | None = None,
    start: str | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> pd.DataFrame: ...


def check(*question: Any, **how: Any) -> pd.DataFrame:
    """Holds hypergradients to what their methods claim, in float64, and to the exact one.

    It answers two questions. Asked with settings, it is the command `bilevel-check`: each method
    on a task of conf/, by default all of them on a quadratic.

        bilevel_cli.check("method=cg,neumann", "task=ridge")

    Asked with losses, it tells whether `bilevel_cli.hypergradient` is right on your problem, at the
    `inner` and `outer` that you give, with the same arguments; `method` may be several:

        bilevel_cli.check(inner_loss, outer_loss, w, penalty, ["cg", "reverse"], steps=200)

    References are central differences of the losses and of their gradients, which share no code
    with the methods. They take two inner solves for each outer entry: check a small problem. Where
    there are more than 64 outer entries, random directions are looked along instead of all axes.

    Args:
        *question: Settings as on the command line of `bilevel-check`; or `inner_loss`,
            `outer_loss`, `inner`, `outer`, `method`, `solver`, `steps`, as in
            `bilevel_cli.hypergradient`. Tensors must be of float64: finite differences in float32
            tell nothing.
        **how: With settings: `config_dir`, a folder of options of your own. With losses: `lr`,
            `start`, `settings` and `seed`, as in `bilevel_cli.hypergradient`.

    Returns:
        One row a method, with the columns `method`, `claim` (what the estimate is said to be),
        `verdict` ("ok", "WRONG", "unsettled", "failed", "refused", "no reference" or "chaotic"),
        `measured` and `allowed` (the error that was found, and the largest allowed),
        `relative_error` and `cosine` (to what is claimed), `exact_error` and `exact_cosine` (to the
        hypergradient at the exact inner solution; NaN where there is none), `inner_grads`, `hvps`
        and `seconds` (of one estimate), `reason` (for all verdicts but "ok").

    Raises:
        UsageError: An option, a setting or a loss cannot serve. A method that cannot serve the
            problem is a row with the verdict "refused".
    """
    if (question and callable(question[0])) or "inner_loss" in how:
        return _of_losses(*question, **how)
    return _of_settings(*question, **how)


def _of_settings(*overrides: str, config_dir: str | None = None) -> pd.DataFrame:
    wrong = [text for text in overrides if not (isinstance(text, str) and "=" in text)]
    if wrong:
        raise UsageError(
            f"check needs settings such as 'method=cg', or two losses, got {wrong[0]!r}. Write "
            'check("task=ridge") or check(inner_loss, outer_loss, inner, outer).'
        )
    try:
        with hydra_apart(), settings_restored():
            return _table(rows(list(overrides), config_dir))
    except UsageError:
        raise
    except Exception as error:  # of Hydra, which raises all kinds
        raise UsageError(explain(error)) from error


def _of_losses(
    inner_loss: Loss,
    outer_loss: Loss,
    inner: Variables,
    outer: Variables,
    method: str | Iterable[str] = "cg",
    solver: str | None = None,
    steps: int = 100,
    *,
    lr: float | None = None,
    start: str | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    z, lam = forms(inner, outer)
    if next(iter(z.params.values())).dtype != torch.float64:
        raise UsageError(
            "check needs tensors of float64, got float32, in which finite differences tell "
            "nothing. Convert inner, outer and what the losses use: .double()."
        )
    methods = [method] if isinstance(method, str) else list(method)
    found = []
    for name in methods:
        choice = Choice(name, solver, start, steps, lr, settings or {})
        found.append((name, _finding(inner_loss, outer_loss, z, lam, choice, seed)))
    return _table(found)


def _finding(
    inner_loss: Loss, outer_loss: Loss, inner: Form, outer: Form, choice: Choice, seed: int
) -> Finding:
    with computing_in(torch.float64), exact_attention():
        given = prepared(inner_loss, outer_loss, inner, outer, choice)
        # At the very point that was given, not away from it: that is what was asked.
        return verdict.check(given.method, given.loop, given.task, given.steps, seed, away=0.0)


def _table(found: list[tuple[str, Finding]]) -> pd.DataFrame:
    table = pd.DataFrame([{"method": name, **finding._asdict()} for name, finding in found])
    first = ["method", "claim", "verdict"]
    return table[[*first, *(name for name in table.columns if name not in first)]]
