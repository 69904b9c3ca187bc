"""BOAT (Liu et al., 2025): operators named in a configuration, on top of higher.

`run_iter` evaluates both losses once more for its log; the log itself goes nowhere here.
"""

import copy
import os
from typing import Any

import boat_torch
import torch
from torch import Tensor, nn

from benchmarks.case import Case, Implementation, Values
from bilevel_cli.core.trees import Params

NAME = "BOAT"


def lower_loss(feed: dict[str, Any], upper: Any, model: nn.Module, **given: Any) -> Tensor:
    return _loss(feed["case"].inner_loss, feed, upper, model, given.get("params"))


def upper_loss(feed: dict[str, Any], upper: Any, model: nn.Module, **given: Any) -> Tensor:
    return _loss(feed["case"].outer_loss, feed, upper, model, given.get("params"))


def _loss(loss: Any, feed: dict[str, Any], upper: Any, model: nn.Module, params: Any) -> Tensor:
    def forward(x: Tensor) -> Tensor:
        return model(x) if params is None else model(x, params=params)

    z = params or getattr(model, "fast_params", None) or list(model.parameters())
    return loss(forward, z, getattr(upper, "named", {}), feed["batch"])


def _problem(case: Case, operators: list[str]) -> Implementation:
    lower = copy.deepcopy(case.model)
    upper = Values(case) if case.outer else lower
    variables = list(upper.parameters())
    several = len(case.episodes) > 1
    config = {
        "fo_op": None,
        "gm_op": ["NGD"],
        "na_op": operators,
        "lower_level_model": lower,
        "upper_level_model": upper,
        "lower_level_opt": torch.optim.SGD(lower.parameters(), case.lr, momentum=case.momentum),
        "upper_level_opt": torch.optim.SGD(variables, 0.1),
        "lower_level_var": list(lower.parameters()),
        "upper_level_var": variables,
        "lower_iters": case.steps,
        "device": str(next(lower.parameters()).device),
        "return_grad": True,
        "accumulate_grad": several,
        "copy_last_param": False,
        "loss_log_path": os.devnull,
        "GDA": {"alpha_init": 0.0, "alpha_decay": 0.9},
        "RGT": {"truncate_iter": 0},
        "CG": {"k": case.products - ("NS" in operators), "tolerance": 0.0},
    }
    functions = {
        f"{level}_level_loss": {"function": f"{__name__}.{level}_loss"}
        for level in ("lower", "upper")
    }
    problem = boat_torch.Problem(config, functions)
    problem.build_ll_solver()
    problem.build_ul_solver()

    feeds = [[{"case": case, "batch": pair[side]} for pair in case.episodes] for side in (0, 1)]
    arguments = feeds if several else [feed for (feed,) in feeds]

    def hypergradient() -> Params:
        for variable in variables:
            variable.grad = None
        problem.loss_history.clear()
        problem._log_results.clear()
        problem.run_iter(*arguments, 0)
        grads = [variable.grad / len(case.episodes) for variable in variables]
        return dict(zip(case.names, grads, strict=True))

    return hypergradient


def unrolled(case: Case) -> Implementation:
    return _problem(case, ["RAD"] if case.outer else ["IAD"])


def pessimistic(case: Case) -> Implementation:
    return _problem(case, ["PTT", "RAD"])


def implicit(case: Case) -> Implementation:
    return _problem(case, ["CG"] if case.is_cg else ["NS"])
