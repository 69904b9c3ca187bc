"""The steps of outer optimizers as pure functions: torch's own, written for the compiler."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from configs import composed, options
from hydra.utils import instantiate
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from bilevel_cli.optimizers.mirror_descent import MirrorDescent
from bilevel_cli.runs.pure_optimizer import step_sizes, update

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": SGD,
    "weight decay": partial(SGD, weight_decay=0.1),
    "momentum": partial(SGD, momentum=0.9, weight_decay=0.1),
    "nesterov": partial(SGD, momentum=0.9, nesterov=True, weight_decay=0.1),
    "sgd in one kernel": partial(SGD, momentum=0.9, fused=True),
    "adam": Adam,
    "adam with decay": partial(Adam, weight_decay=0.1, betas=(0.5, 0.9), eps=1e-3),
    "adam in one kernel": partial(Adam, fused=True),
    "mirror descent": MirrorDescent,
}


def stepped(optimizer: Optimizer, grad: Tensor) -> None:
    for group in optimizer.param_groups:
        for value in group["params"]:
            value.grad = grad.clone()
    optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_pure_step_is_the_optimizers_own(name: str, dtype: torch.dtype) -> None:
    value = torch.rand(7, dtype=dtype) + 0.5
    optimizer = OPTIMIZERS[name]([value], lr=0.1)
    (group,) = optimizer.param_groups
    stepped(optimizer, torch.randn(7, dtype=dtype))  # in which it begins its memory
    pure: Any = update(optimizer, group)
    own = value.clone()
    memory = {n: x.clone() for n, x in optimizer.state[value].items() if isinstance(x, Tensor)}
    for number in range(100):
        grad, lr = torch.randn(7, dtype=dtype), 0.1 / (number + 1)
        group["lr"] = lr
        stepped(optimizer, grad)
        own, memory = pure(own, grad, memory, torch.tensor(lr, dtype=torch.float64))
    # A hundred steps, each exact to a few units in the last place.
    tolerance = 1e-12 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(own, value, rtol=tolerance, atol=tolerance)
    for entry, x in memory.items():
        torch.testing.assert_close(x, optimizer.state[value][entry], rtol=tolerance, atol=tolerance)


class Own(SGD):
    """A user's optimizer, whose step may be any."""


@pytest.mark.parametrize(
    "make",
    [
        partial(Adam, amsgrad=True),
        partial(Adam, maximize=True),
        partial(Adam, decoupled_weight_decay=True, weight_decay=0.1),
        partial(SGD, momentum=0.9, dampening=0.5),
        partial(SGD, maximize=True),
        AdamW,
        Own,
    ],
)
def test_an_optimizer_set_in_another_way_has_no_pure_step(make: Callable[..., Optimizer]) -> None:
    optimizer = make([torch.zeros(2)], lr=0.1)
    assert update(optimizer, optimizer.param_groups[0]) is None


def scheduled(name: str) -> LRScheduler:
    """A scheduler of conf/, over two groups of parameters whose step sizes differ."""
    settings = composed("task=quadratic", f"scheduler={name}", "outer_steps=40").scheduler
    groups: list[dict[str, Any]] = [
        {"params": [torch.zeros(1)]},
        {"params": [torch.zeros(1)], "lr": 0.03},
    ]
    optimizer = SGD(groups, lr=0.1)
    found: LRScheduler = instantiate(settings)(optimizer)
    optimizer.step()
    return found


@pytest.mark.parametrize("name", options("scheduler"))
def test_step_sizes_ahead_are_those_of_single_steps(name: str) -> None:
    ours, theirs = scheduled(name), scheduled(name)
    for count in (1, 2, 7, 1, 30):  # the cosine passes its end
        expected = []
        for _ in range(count):
            expected.append([float(group["lr"]) for group in theirs.optimizer.param_groups])
            theirs.step()
        assert step_sizes(ours, count) == expected
        assert ours.state_dict() == theirs.state_dict()
        now = [[group["lr"] for group in one.optimizer.param_groups] for one in (ours, theirs)]
        assert now[0] == now[1]


def test_step_sizes_of_a_users_lambdas_differ_by_group() -> None:
    def made() -> LRScheduler:
        groups: list[dict[str, Any]] = [
            {"params": [torch.zeros(1)]},
            {"params": [torch.zeros(1)], "lr": 0.03},
        ]
        return LambdaLR(SGD(groups, lr=0.1), [lambda k: 1.0 / (k + 1), lambda k: 0.9**k])

    ours = step_sizes(made(), 9)
    assert ours == [[0.1 * (1.0 / (k + 1)), 0.03 * 0.9**k] for k in range(9)]
