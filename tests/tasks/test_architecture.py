"""Architecture search weighs operations as its formulas say, decides, and trains what it chose."""

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from configs import composed, small
from hydra.utils import instantiate
from problems import central_difference, seeded
from runners import built
from torch import Tensor
from torch.nn import functional

from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.trees import Params
from bilevel_cli.errors import UsageError
from bilevel_cli.methods.darts import Darts
from bilevel_cli.methods.direct import Direct
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.solvers.momentum import Momentum
from bilevel_cli.starts.warm import Warm
from bilevel_cli.tasks.hyperparameters.architecture import Architecture
from bilevel_cli.tasks.hyperparameters.cell import Cell, MaxPool

SMALL = ["task=architecture", "device.dtype=float64", *small("architecture")]
SMALL += ["task.cell.nodes=2"]


def posed(*overrides: str) -> Architecture:
    config = composed(*SMALL, *overrides)
    given = {"device": torch.device("cpu"), "generator": seeded(), "data": instantiate(config.data)}
    task: Architecture = instantiate(config.task, **given)
    return task


def cell(nodes: int, operations: list[str]) -> Cell:
    torch.manual_seed(0)
    return Cell(4, nodes, operations, (1, 8, 8), 10)


def normal(x: Tensor) -> Tensor:
    return functional.batch_norm(x, None, None, training=True)


def test_every_pair_of_nodes_has_an_edge_and_every_edge_a_row() -> None:
    network = cell(3, ["skip", "conv"])
    assert network.edges == [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
    assert network.operations == ("zero", "skip", "conv")
    assert network.architecture.shape == (6, 3)


@torch.no_grad()
def test_a_mixture_is_the_sum_of_the_operations_by_their_softmax_weights() -> None:
    network, x = cell(1, ["skip", "conv", "avg_pool", "max_pool"]), torch.rand(6, 1, 8, 8)
    network.architecture.copy_(torch.tensor([[0.3, -1.0, 0.5, 1.0, 0.2]]))
    node, filters = network.stem(x), dict(network.named_parameters())["mixed.0.1.1.weight"]
    around = functional.avg_pool2d(node, 3, 1, 1, count_include_pad=False)
    operations = [
        torch.zeros_like(node),
        node,
        normal(functional.conv2d(node.relu(), filters, padding=1)),
        normal(around),
        normal(functional.max_pool2d(node, 3, 1, 1)),
    ]
    weights = torch.tensor([0.3, -1.0, 0.5, 1.0, 0.2]).exp()
    mixed = sum(w * o for w, o in zip(weights / weights.sum(), operations, strict=True))
    assert isinstance(mixed, Tensor)
    torch.testing.assert_close(network(x), network.head(mixed.mean((2, 3))))


def test_the_largest_of_nine_pixels_is_that_of_torch_and_so_is_its_derivative() -> None:
    x, slope = torch.randn(2, 3, 5, 7), torch.randn(2, 3, 5, 7)
    ours, pull_ours = autodiff.vjp(MaxPool(), x)
    theirs, pull_theirs = autodiff.vjp(lambda x: functional.max_pool2d(x, 3, 1, 1), x)
    assert torch.equal(ours, theirs)
    torch.testing.assert_close(pull_ours(slope), pull_theirs(slope))


def test_the_decided_architecture_has_the_strongest_operations_on_the_strongest_edges() -> None:
    task = posed("task.cell.nodes=3", "task.keep=2")
    architecture = 3 * torch.randn(6, 5, generator=seeded(1))
    weights = architecture.softmax(1)
    strength = weights[:, 1:].max(1).values.tolist()
    expected = torch.zeros(6, 5)
    for target in (1, 2, 3):
        into = [number for number, edge in enumerate(task.edges) if edge[1] == target]
        kept = sorted(into, key=lambda number: -strength[number])[:2]
        for number in into:
            column = 1 + int(weights[number, 1:].argmax()) if number in kept else 0
            expected[number, column] = 1.0
    assert torch.equal(task.chosen(architecture), expected)
    assert int(expected[:, 1:].sum()) == 5  # one of three edges into the last node is dropped
    decided = task.deployed({"architecture": architecture, "other": torch.ones(2)})
    assert torch.equal(decided["architecture"].softmax(1), expected)
    assert torch.equal(decided["other"], torch.ones(2))


def test_equal_edges_are_kept_in_their_order_and_no_more_of_them() -> None:
    task = posed("task.cell.nodes=3", "task.keep=2")
    chosen = task.chosen(torch.zeros(6, 5))
    assert chosen[:, 0].tolist() == [0, 0, 0, 0, 0, 1]
    assert chosen[:5, 1].tolist() == [1, 1, 1, 1, 1]


def test_first_and_second_order_search_differ_by_the_derivative_through_the_step() -> None:
    task = posed("task.spread=0.5")
    outer, data = task.init_outer(seeded()), task.sample(1, seeded(2))
    loop = InnerLoop(task, Momentum(0.05, 0.9), Warm())
    carry: Any = {"inner": loop.fresh(outer, data)}

    def stepped(outer: Params) -> Params:
        return loop.step(carry["inner"], outer, data, 0)["inner"]

    def through_the_step(outer: Params) -> Tensor:
        return task.outer_loss(stepped(outer), outer, data.outer)

    first, second, exact = (
        method.estimate(loop, outer, data, carry).grad
        for method in (Direct(), Darts(0.001), Reverse(None, None))
    )
    still = central_difference(lambda o: task.outer_loss(data.init, o, data.outer), outer)
    moving = central_difference(through_the_step, outer)
    torch.testing.assert_close(first, still, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(exact, moving, rtol=1e-5, atol=1e-8)
    gap = trees.norm(trees.axpy(-1.0, exact, second))
    assert gap < 1e-3 * trees.norm(exact)
    assert gap < 0.01 * trees.norm(trees.axpy(-1.0, exact, first))


def test_a_fresh_solve_trains_the_decided_architecture(tmp_path: Path) -> None:
    sizes = ["task.spread=1", "retrain=3", "outer_steps=2", "eval_every=2", "method=darts"]
    run = built(tmp_path, *SMALL, *sizes)
    run.run()
    scores = pd.read_csv(tmp_path / "eval.csv").iloc[-1]
    assert scores["entropy"] > 0.1
    assert scores["retrained_entropy"] == 0
    # With nothing but what is decided in the mixture, deciding changes nothing.
    assert scores["retrained_decided_accuracy"] == scores["retrained_test_accuracy"]
    shares = [name for name in scores.index if name.startswith("share_")]
    assert scores[shares].sum() == pytest.approx(1)
    for name in shares:
        assert scores[name] == scores[f"retrained_{name}"]


def test_what_is_written_says_which_operation_each_edge_has(tmp_path: Path) -> None:
    run = built(tmp_path, *SMALL, "task.spread=1", "outer_steps=1", "task.keep=1")
    run.run()
    run.result()
    table = pd.read_csv(tmp_path / "architecture.csv")
    assert list(table.columns) == ["source", "target", "operation", "weight", "chosen"]
    edges = table.groupby(["source", "target"])
    assert len(edges) == 3
    assert edges["weight"].sum().to_list() == pytest.approx([1, 1, 1])
    assert edges["chosen"].sum().to_list() == [1, 1, 1]
    kept = table[(table["operation"] != "zero") & (table["chosen"] == 1)]
    assert sorted(kept["target"]) == [1, 2]
    outer = torch.load(tmp_path / "outer.pt", weights_only=True)["architecture"]
    assert table["weight"].to_list() == pytest.approx(outer.softmax(1).flatten().tolist())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.keep=0", "keep >= 1, got"),
        ("task.spread=-1", "spread >= 0"),
        ("task.cell.operations=[skip,skip]", "each once, got"),
        ("task.cell.operations=[pool]", "needs operations among skip, conv"),
        ("task.cell.nodes=0", "needs nodes >= 1"),
    ],
)
def test_an_impossible_search_is_refused(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        built(tmp_path, *SMALL, override)


def test_a_network_without_an_architecture_is_refused() -> None:
    config = composed(*SMALL)
    given = {"device": torch.device("cpu"), "generator": seeded(), "data": instantiate(config.data)}
    linear = instantiate(composed("model=linear").model)
    with pytest.raises(ValueError, match="needs a network with a parameter `architecture`"):
        Architecture(linear, None, None, 0.0, 2, **given)


def test_all_weights_alike_have_the_entropy_of_a_fair_choice(tmp_path: Path) -> None:
    run = built(tmp_path, *SMALL, "task.spread=0", "method=none", "outer_steps=1")
    run.run()
    scores = pd.read_csv(tmp_path / "eval.csv").iloc[-1]
    assert scores["entropy"] == pytest.approx(math.log(5))
    assert scores["weight_skip"] == pytest.approx(0.2)
