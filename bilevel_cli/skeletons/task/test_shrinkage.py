"""Shrinkage keeps the contract of tasks, and its inner problem is the one that was meant."""

import torch

from bilevel_cli import autodiff, check_task
from bilevel_cli.skeletons.task.shrinkage import Shrinkage


def task() -> Shrinkage:
    return Shrinkage(4, 0.1, torch.device("cpu"), torch.Generator().manual_seed(0))


def test_the_contract_of_tasks_is_kept() -> None:
    check_task(task())


def test_the_inner_loss_has_no_slope_at_the_solution_in_closed_form() -> None:
    x, y = (task().examples["train"][name] for name in ("x", "y"))
    outer = {"log_l2": torch.tensor([-1.0, 0.0, 1.0, 2.0]).to(x)}
    matrix = x.T @ x / len(x) + torch.diag(outer["log_l2"].exp())
    best = {"weight": torch.linalg.solve(matrix, x.T @ y / len(x))}
    slope = autodiff.grad(task().inner_loss)(best, outer, {"x": x, "y": y})["weight"]
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-5)
