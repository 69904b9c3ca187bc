"""A product of a compiled loop is taken the way round that was measured to be faster."""

from typing import Any

import pytest
import torch
from torch import Tensor, fx

from bilevel_cli.machine import loop_products
from bilevel_cli.machine.loop_products import STRAIGHT, TURNED, LoopProduct, turn
from bilevel_cli.nn import choosing


def traced(a: Tensor, b: Tensor) -> fx.GraphModule:
    """2 a b + 1, with the values of its operations noted."""
    graph = fx.Graph()
    one, other = graph.placeholder("a"), graph.placeholder("b")
    one.meta["val"], other.meta["val"] = a, b
    product = graph.call_function(torch.ops.aten.mm.default, (one, other))
    product.meta["val"] = a @ b
    graph.output(graph.call_function(torch.ops.aten.add.Scalar, (product, 1.0)))
    return fx.GraphModule(torch.nn.Module(), graph)


def case_of(a: Tensor, b: Tensor) -> LoopProduct:
    sides = [(tuple(x.shape), tuple(x.stride())) for x in (a, b)]
    return LoopProduct(sides[0], sides[1], a.dtype, torch.get_num_threads())


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Decides for a product, as a checkpoint of a run does."""
    monkeypatch.setattr(loop_products, "FEWEST", 100)

    def decide(a: Tensor, b: Tensor, kernel: str) -> None:
        choices = choosing.current()
        choices.follow({f"{case_of(a, b)}, matmul_precision=highest": kernel})

    with choosing.restored():
        choosing.begin(measuring=True)
        yield decide


@pytest.mark.parametrize("columns", [True, False])
def test_a_product_that_is_faster_the_other_way_round_is_turned(chosen: Any, columns: bool) -> None:
    a = torch.randn(6, 5, dtype=torch.float64)
    b = torch.randn(7, 5, dtype=torch.float64).t() if columns else torch.randn(5, 7).double()
    chosen(a, b, TURNED)
    body = traced(a, b)
    turn(body)
    body.graph.lint()
    (product,) = body.graph.find_nodes(op="call_function", target=torch.ops.aten.mm.default)
    assert product.meta["val"].shape == (7, 6)
    torch.testing.assert_close(body(a, b), a @ b + 1, rtol=1e-14, atol=1e-14)


def test_a_product_that_is_not_stays(chosen: Any) -> None:
    a, b = torch.randn(6, 5), torch.randn(5, 7)
    chosen(a, b, STRAIGHT)
    body = traced(a, b)
    before = body.code
    turn(body)
    assert body.code == before


def test_products_of_few_multiplications_are_not_measured() -> None:
    with choosing.restored():
        choosing.begin(measuring=True)
        turn(traced(torch.randn(64, 22), torch.randn(22, 1)))
        assert choosing.current().taken == {}
