"""A small graph: how its nodes begin, and what exact methods say of their features."""

from typing import Any

import pytest
import torch
from coarsened_graph import coarsened_graph
from coarsened_graph.coarsened_graph import CoarsenedGraph
from problems import estimate, seeded

from bilevel_cli import Hypergradient, InnerLoop, autodiff, check_task
from bilevel_cli.linear_solvers.cg import ConjugateGradient
from bilevel_cli.linear_solvers.exact import Exact
from bilevel_cli.linear_solvers.minres import MinimumResidual
from bilevel_cli.methods.direct import Direct
from bilevel_cli.methods.implicit import Implicit
from bilevel_cli.methods.reverse_implicit import ReverseImplicit
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.solvers.lbfgs import Lbfgs
from bilevel_cli.starts.cold import Cold
from bilevel_cli.starts.warm import Warm

CPU = torch.device("cpu")


def task(nodes: int = 8, merge: bool = True, match: bool = False) -> CoarsenedGraph:
    return CoarsenedGraph(nodes, merge, match, CPU, seeded())


@pytest.mark.parametrize("match", [True, False])
def test_the_contract_of_tasks_is_kept(match: bool) -> None:
    check_task(task(match=match))


def test_merged_nodes_keep_all_known_labels_and_half_the_labels_are_known() -> None:
    for merge, labels in ((True, 100), (False, 8)):
        posed = task(merge=merge)
        assert posed.small["y"].sum() == labels
        assert posed.large["y"].sum() == posed.test["y"].sum() == 100
        assert (posed.large["y"] * posed.test["y"]).sum() == 0


def test_gradients_that_match_have_no_distance() -> None:
    posed = task(match=True)
    data = posed.sample(1, seeded())
    posed.small = posed.large
    same = posed.outer_loss(data.init, {"x": posed.large["x"]}, posed.large)
    assert same.abs() < 1e-9


def test_matching_is_differentiated_at_the_networks_as_they_are() -> None:
    posed = task(match=True)
    data, outer = posed.sample(2, seeded()), posed.init_outer(seeded())
    found = estimate(Direct(), posed, data, outer).grad["x"]
    way = torch.randn(found.shape, generator=seeded(1))
    ends = [
        posed.outer_loss(data.init, {"x": outer["x"] + step * way}, data.outer)
        for step in (1e-5, -1e-5)
    ]
    torch.testing.assert_close((found * way).sum(), (ends[0] - ends[1]) / 2e-5, rtol=1e-6, atol=0)


def test_all_exact_methods_agree_on_networks_that_are_trained_to_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(coarsened_graph, "NETWORKS", 1)
    monkeypatch.setattr(coarsened_graph, "SHAPES", {"first": (16, 2), "second": (2, 4)})
    posed = task()
    data, outer = posed.sample(200, seeded()), posed.init_outer(seeded())
    loop = InnerLoop(posed, Lbfgs(1.0, 20), Cold())
    trained = loop.run(loop.fresh(outer, data), outer, data)["inner"]
    slope = autodiff.grad(posed.inner_loss)(trained, outer, posed.small)
    assert max(part.abs().max() for part in slope.values()) < 1e-6

    def implicit(solver: Any) -> Hypergradient[Any]:
        return Implicit(solver, warm_adjoint=False, curvature="hessian", clip=None)

    # From there on, the steps of gradient descent no longer move anything.
    data = posed.sample(3, seeded())._replace(init=trained)
    exact, *others = (
        estimate(method, posed, data, outer, Warm(), GradientDescent(0.1)).grad["x"]
        for method in (
            implicit(Exact(0.0, None)),
            implicit(ConjugateGradient(200, 1e-13)),
            implicit(MinimumResidual(200, 1e-13)),
            ReverseImplicit(Exact(0.0, None), None),
            ReverseImplicit(Exact(0.0, None), 1),
        )
    )
    for other in others:
        assert (other - exact).norm() < 1e-5 * exact.norm()


def test_more_nodes_than_have_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="2 to 100 nodes, got nodes=101"):
        task(nodes=101)
