"""Steps of torch's optimizers and schedulers, without what torch wraps around them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from starting import build
from torch import Tensor
from torch.optim.lr_scheduler import ConstantLR
from torch.optim.optimizer import register_optimizer_step_post_hook

from bilevel_cli.optimizers.constant import Constant
from bilevel_cli.runs import plain_step as module
from bilevel_cli.runs.plain_step import plain_step

OPTIMIZERS: dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]] = {
    "sgd": lambda some: torch.optim.SGD(some, lr=0.1, momentum=0.9),
    "adam": lambda some: torch.optim.Adam(some, lr=0.1),
    "fused": lambda some: torch.optim.Adam(some, lr=0.1, fused=True),
    "rmsprop": lambda some: torch.optim.RMSprop(some, lr=0.1),
}


def trajectory(make: Callable[..., torch.optim.Optimizer], plain: bool) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(3, 2, generator=generator), torch.randn((), generator=generator)]
    optimizer, found = make(values), []
    step: Callable[[], Any] = optimizer.step
    for _ in range(5):
        for value in values:
            value.grad = torch.randn(value.shape, generator=generator)
        step()
        step = plain_step(optimizer) if plain else optimizer.step
        found += [value.clone() for value in values]
    assert not plain or step != optimizer.step
    return found


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_plain_step_has_the_bits_of_the_wrapped_one(name: str) -> None:
    make = OPTIMIZERS[name]
    ours, theirs = trajectory(make, plain=True), trajectory(make, plain=False)
    assert all(map(torch.equal, ours, theirs))


def test_an_optimizer_with_hooks_or_of_a_users_own_keeps_its_step() -> None:
    class Own(torch.optim.SGD):
        pass

    value = torch.zeros(2)
    own, hooked = Own([value], lr=0.1), torch.optim.SGD([value], lr=0.1)
    assert plain_step(own) == own.step
    assert plain_step(hooked) != hooked.step
    handle = hooked.register_step_pre_hook(lambda *given: None)
    assert plain_step(hooked) == hooked.step
    handle.remove()
    handle = register_optimizer_step_post_hook(lambda *given: None)
    assert plain_step(hooked) == hooked.step
    handle.remove()


def test_a_torch_that_keeps_its_hooks_elsewhere_keeps_its_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    optimizer = torch.optim.SGD([torch.zeros(2)], lr=0.1)
    monkeypatch.setattr(module, "HOOKS_OF_ALL", ("_hooks_of_another_version",))
    assert plain_step(optimizer) == optimizer.step


def test_a_run_takes_its_first_step_as_torch_does_and_the_others_plainly(tmp_path: Path) -> None:
    run = build(tmp_path, "outer_steps=3", "optimizer=sgd")
    wrapped, calls = run.state.optimizer.step, []

    def noted() -> None:
        calls.append(run.step)
        wrapped()

    noted._wrapped_by_lr_sched = True  # type: ignore[attr-defined] # or torch warns
    run.state.optimizer.step = noted  # type: ignore[assignment, method-assign]
    run.run()
    assert calls == [1]
    assert run.step == 3


def test_a_constant_step_size_leaves_what_the_scheduler_of_torch_leaves() -> None:
    def state(make: Callable[[torch.optim.Optimizer], ConstantLR]) -> dict[str, Any]:
        optimizer = torch.optim.SGD([torch.zeros(2)], lr=0.1)
        scheduler = make(optimizer)
        for step in range(9):
            optimizer.step()
            if step == 6:  # as a run that goes back halves it
                optimizer.param_groups[0]["lr"] /= 2
            scheduler.step()
        return {**scheduler.state_dict(), "groups": optimizer.param_groups[0]["lr"]}

    assert state(Constant) == state(lambda optimizer: ConstantLR(optimizer, factor=1.0))
