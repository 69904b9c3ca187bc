"""Losses whose examples processes share, with a company of one."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from configs import configured, options, small
from torch import Tensor

from bilevel_cli.config.objects import parts
from bilevel_cli.core import autodiff, episodes
from bilevel_cli.core.blocks import mean
from bilevel_cli.core.joined import Company, DerivedTwice, JoinedProblem, Loss, differing
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Estimate
from bilevel_cli.core.problem import Batch
from bilevel_cli.core.trees import Params
from bilevel_cli.machine.ranks import cut

SMALL = ["task=ridge", "data=diabetes", *small("ridge"), "device=cpu", "device.dtype=float64"]
SMALL += ["inner_steps=2", "task.batch_size=8", "task.outer_batch_size=8"]


class Alone(Company):
    """A company of one, which counts what it adds up."""

    def __init__(self) -> None:
        self.sums = 0

        def total(x: Tensor) -> Tensor:
            self.sums += 1
            return x

        super().__init__(lambda tree: tree, total)


@pytest.fixture(autouse=True)
def double() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def estimates(*overrides: str) -> tuple[Estimate, Callable[[], Estimate], bool, Alone]:
    """The estimate of a method, that with joined losses, whether it says it takes products."""
    _, _, task, loop, method = parts(configured(*SMALL, *overrides), {})
    generator = torch.Generator().manual_seed(0)
    data = episodes.sample(task, method, 2, generator, generator)
    outer = task.init_outer(generator)
    outer = {**loop.outer_init(data, outer), **outer}
    data = data._replace(noise=method.draw(outer, generator))
    data = episodes.drawn(loop, outer, data, generator)
    company = Alone()
    joined = InnerLoop(JoinedProblem(loop.problem, company), loop.solver, loop.start)
    carry = episodes.begin(method, loop, outer, data, episodes.fresh(loop, outer, data))
    products = method.takes_products(2, outer, loop.problem.init_inner(outer, data))

    @torch.no_grad()
    def together() -> Estimate:
        with company.sharing():
            return method.estimate(joined, outer, data, carry)

    with torch.no_grad():
        return method.estimate(loop, outer, data, carry), together, products, company


@pytest.mark.parametrize("name", options("method"))
def test_a_method_is_served_just_where_it_says_that_it_takes_no_products(name: str) -> None:
    alone, together, products, company = estimates(f"method={name}")
    if products:
        with pytest.raises(RuntimeError, match=r"first derivatives alone|jvp"):
            together()
        return
    found = together()
    torch.testing.assert_close(found.grad, alone.grad, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.loss, alone.loss, rtol=1e-12, atol=1e-12)
    assert company.sums > 0


def squares(z: Params, outer: Params, batch: Batch) -> Tensor:
    return (batch["x"] @ z["w"] - batch["y"]).square() * outer["v"][batch["index"]].exp()


def plain(z: Params, outer: Params, batch: Batch) -> Tensor:
    return squares(z, outer, batch).mean() + 0.1 * z["w"].square().sum()


def weighed(z: Params, outer: Params, batch: Batch) -> Tensor:
    return mean(squares(z, outer, batch), batch) + 0.1 * z["w"].square().sum()


def normalised(z: Params, outer: Params, batch: Batch) -> Tensor:
    weights = outer["v"][batch["index"]].exp()
    return (weights * squares(z, outer, batch)).sum() / weights.sum()


def worst_case(z: Params, outer: Params, batch: Batch) -> Tensor:
    return squares(z, outer, batch).logsumexp(0) - math.log(len(batch["x"]))


def standardised(z: Params, outer: Params, batch: Batch) -> Tensor:
    x = batch["x"]
    return plain(z, outer, {**batch, "x": (x - x.mean(0)) / x.std(0)})


def seven() -> tuple[Params, Params, Batch]:
    """A problem with seven examples."""
    generator = torch.Generator().manual_seed(0)
    batch = {"x": torch.randn(7, 3, generator=generator), "y": torch.randn(7, generator=generator)}
    batch |= {"index": torch.arange(7), "weight": torch.rand(7, generator=generator)}
    batch["block"] = torch.tensor(4)
    z, outer = ({n: torch.randn(k, generator=generator)} for n, k in (("w", 3), ("v", 7)))
    return z, outer, batch


def cuts(batch: Batch, count: int) -> list[Batch]:
    return [{n: cut(x, r, count) for n, x in batch.items()} for r in range(count)]


@pytest.mark.parametrize("loss", [plain, weighed])
def test_a_mean_over_examples_is_that_of_its_parts_by_their_shares(loss: Loss) -> None:
    z, outer, batch = seven()
    for count in (2, 3, 7):
        assert differing(loss, z, outer, batch, cuts(batch, count)) is None


@pytest.mark.parametrize("loss", [normalised, worst_case, standardised])
def test_a_loss_in_which_examples_meet_is_known(loss: Loss) -> None:
    z, outer, batch = seven()
    assert "for" in str(differing(loss, z, outer, batch, cuts(batch, 3)))


def test_one_sum_has_the_loss_and_the_gradients_that_are_wanted_and_no_others() -> None:
    z, outer, batch = seven()
    sizes = []

    def total(x: Tensor) -> Tensor:
        sizes.append(x.numel())
        return x

    company = Company(lambda tree: tree, total)
    problem: Any = JoinedProblem(SimpleNamespace(inner_loss=plain), company)
    with company.sharing():
        for wanted in (0, 1, (0, 1)):
            found = autodiff.grad(problem.inner_loss, wanted)(z, outer, batch)
            torch.testing.assert_close(found, autodiff.grad(plain, wanted)(z, outer, batch))
        problem.inner_loss(z, outer, batch)
    assert sizes == [1 + 3, 1 + 7, 1 + 3 + 7, 1]


def test_a_loss_that_fails_takes_part_without_a_number_and_tells_afterwards() -> None:
    z, outer, batch = seven()
    sizes = []

    def failing(z: Params, outer: Params, batch: Batch) -> Tensor:
        raise MemoryError("on purpose")

    def total(x: Tensor) -> Tensor:
        sizes.append(x.numel())
        assert x.isnan().all()
        return x

    company = Company(lambda tree: tree, total)
    problem: Any = JoinedProblem(SimpleNamespace(inner_loss=failing), company)
    with company.sharing():
        assert autodiff.grad(problem.inner_loss)(z, outer, batch)["w"].isnan().all()
        assert (
            autodiff.vmap(lambda v: problem.inner_loss(z, {"v": v}, batch))(torch.zeros(5, 7))
            .isnan()
            .all()
        )
    assert sizes == [1 + 3, 5]
    assert isinstance(company.error, MemoryError)


def test_a_loss_of_another_dtype_is_added_up_in_that_of_a_process_where_it_fails() -> None:
    z, outer, batch = seven()
    dtypes: list[torch.dtype] = []

    def coarse(z: Params, outer: Params, batch: Batch) -> Tensor:
        if len(dtypes) == 1:
            raise MemoryError("on purpose")
        return plain(z, outer, batch).bfloat16()

    def total(x: Tensor) -> Tensor:
        dtypes.append(x.dtype)
        return x

    problem: Any = JoinedProblem(
        SimpleNamespace(inner_loss=coarse), company := Company(lambda tree: tree, total)
    )
    with company.sharing():
        problem.inner_loss(z, outer, batch)
        problem.inner_loss(z, outer, batch)
    assert dtypes == [torch.float64, torch.float64]


def test_a_second_derivative_is_refused_by_name() -> None:
    z, outer, batch = seven()
    company = Alone()
    problem: Any = JoinedProblem(SimpleNamespace(inner_loss=plain), company)

    def slope(z: Params) -> Tensor:
        return autodiff.grad(problem.inner_loss)(z, outer, batch)["w"].sum()

    with company.sharing(), pytest.raises(DerivedTwice, match="method=sama"):
        autodiff.grad(slope)(z)
