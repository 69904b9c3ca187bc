"""A torch module is made functional: its parameters are arguments, and one seed is one start."""

import copy
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch
from problems import seeded
from torch import Tensor, nn
from torch.nn import functional as F

from bilevel_cli.core.trees import Params
from bilevel_cli.models import Conv4
from bilevel_cli.nn.building import Shape, build
from bilevel_cli.nn.functional import Functional, functional

CPU = torch.device("cpu")
DIGITS = (1, 8, 8)


def small() -> Functional:
    return build(partial(Conv4, 4), DIGITS, 3, CPU)


class Named(nn.Module):
    """A user's class that asks for both sizes."""

    def __init__(self, input_shape: Shape, num_outputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(math.prod(input_shape), num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1))


class Own(nn.Module):
    """A layer that owns a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(2e-3)  # long enough for threads to meet between the call and the product
        return x @ self.weight


def test_one_seed_gives_one_initialisation_and_two_give_two() -> None:
    model = small()
    once, again, other = (model.init(seeded(seed)) for seed in (1, 1, 2))
    torch.testing.assert_close(once, again, rtol=0, atol=0)
    # Normalisation begins at ones and zeros; everything else is drawn.
    drawn = {name for name, value in once.items() if not torch.equal(value, other[name])}
    assert drawn == {name for name in once if "head" in name or once[name].ndim == 4} | {
        name.replace("weight", "bias") for name in once if once[name].ndim == 4
    }


def test_an_initialisation_advances_its_generator_and_no_other() -> None:
    model, generator = small(), seeded(1)
    before = torch.get_rng_state()
    first, second = model.init(generator), model.init(generator)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first["head.weight"], second["head.weight"])


def test_an_initialisation_is_the_scheme_of_the_module() -> None:
    # torch.nn.Linear: weight and bias uniform with |value| <= 1 / sqrt(in_features).
    found = functional(lambda: nn.Linear(100, 200)).init(seeded(0))
    for value in found.values():
        assert value.abs().max() <= 0.1
    # Variance of the uniform law, 0.1^2 / 3, of 20000 entries: relative error sqrt(0.8 / 20000).
    assert found["weight"].var().item() == pytest.approx(0.01 / 3, rel=5 * 0.0064)


def test_later_initialisations_leave_earlier_ones_alone() -> None:
    model = small()
    first = model.init(seeded(1))
    kept = {name: value.clone() for name, value in first.items()}
    model.init(seeded(2))
    torch.testing.assert_close(first, kept, rtol=0, atol=0)
    assert not any(value.requires_grad for value in first.values())


def test_threads_that_apply_one_model_see_their_own_parameters() -> None:
    # torch.func.functional_call on a module that they share gives each the other's.
    model = functional(Own)
    params = [model.init(seeded(seed)) for seed in range(8)]
    x = torch.randn(3, 4)

    def output(params: Params) -> Tensor:
        with torch.no_grad():
            return model.apply(params, x)

    for _ in range(2):  # the second time with modules that the first has left behind
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(output, params))
        for one, value in zip(params, found, strict=True):
            assert torch.equal(value, x @ one["weight"])


def test_a_model_is_copied_once_where_calls_follow_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copies: list[nn.Module] = []
    deepcopy = copy.deepcopy

    def counted(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
        copies.append(module)
        return deepcopy(module, memo)

    monkeypatch.setattr(copy, "deepcopy", counted)
    model = small()
    params = model.init(seeded(0))
    copies.clear()  # building applied the model once
    for _ in range(3):
        model.apply(params, torch.randn(2, *DIGITS))
    assert copies == []


def test_a_model_that_raised_can_be_applied_again() -> None:
    model = functional(lambda: nn.Linear(4, 2))
    params = model.init(seeded(0))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model.apply(params, torch.zeros(3, 5))
    x = torch.randn(3, 4)
    assert torch.equal(model.apply(params, x), F.linear(x, params["weight"], params["bias"]))


def test_build_gives_sizes_to_a_class_that_names_them_and_to_no_other() -> None:
    named = build(Named, (2, 3), 4, CPU)
    assert dict(named.named_parameters())["layer.weight"].shape == (4, 6)
    plain = build(lambda: nn.Linear(3, 4), (3,), 4, CPU)
    assert dict(plain.named_parameters())["weight"].shape == (4, 3)
    half = build(lambda num_outputs: nn.Linear(3, num_outputs), (3,), 4, CPU)
    assert dict(half.named_parameters())["weight"].shape == (4, 3)


def test_build_takes_the_precision_of_the_run() -> None:
    def single() -> nn.Module:
        return nn.Linear(3, 4, dtype=torch.float32)

    assert build(single, (3,), 4, CPU).init(seeded(0))["weight"].dtype == torch.float64


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: build(lambda: nn.Linear(3, 4), (5,), 4, CPU),
            r"shape \[5\], got Linear, which fails on them: RuntimeError: mat1 and .* Choose an",
        ),
        (
            lambda: build(lambda: nn.Linear(3, 4), (3,), 5, CPU),
            r"return \[batch, 5\] here, got \[2, 4\] from Linear for a batch of 2. Give it 5 out",
        ),
        (
            lambda: build(
                lambda: nn.Sequential(Named((3,), 4), nn.Unflatten(1, (4, 1))), (3,), 4, CPU
            ),
            r"got \[2, 4, 1\] from Sequential",
        ),
    ],
)
def test_a_model_that_does_not_fit_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
