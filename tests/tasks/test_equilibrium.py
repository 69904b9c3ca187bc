"""A deep equilibrium model: all methods that serve its field agree with a closed form."""

from typing import Any

import pytest
import torch
from problems import estimate, seeded

from bilevel_cli.core import trees
from bilevel_cli.core.method import Hypergradient
from bilevel_cli.core.trees import Params
from bilevel_cli.data.digits import Digits
from bilevel_cli.linear_solvers.exact import Exact
from bilevel_cli.linear_solvers.least_squares import LeastSquares
from bilevel_cli.linear_solvers.neumann import Neumann
from bilevel_cli.methods.fixed_point import FixedPoint
from bilevel_cli.methods.implicit import Implicit
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.tasks.examples.equilibrium import Equilibrium

CPU = torch.device("cpu")


def made(examples: int = 6, hidden: int = 4, **changes: Any) -> Equilibrium:
    data = Digits(examples, 1, 20)
    settings = {"hidden": hidden, "bound": 0.8, "batch_size": None, **changes}
    return Equilibrium(**settings, data=data, device=CPU, generator=seeded())


def away(task: Equilibrium) -> Params:
    """Weights at the bound, where nothing is small."""
    outer = task.init_outer(seeded(1))
    return task.project_outer({n: x + torch.randn(x.shape) for n, x in outer.items()})


def closed_form(task: Equilibrium, outer: Params) -> Params:
    """Of each example apart: v = (I - W^T D)^-1 D V^T (p - y) / n moves what feeds the layer."""
    x, y = task.train["x"], task.train["y"]
    z = torch.zeros(len(x), task.hidden)
    for _ in range(500):
        z = torch.tanh(
            z @ outer["recurrent.weight"].T + x @ outer["input.weight"].T + outer["input.bias"]
        )
    logits = z @ outer["head.weight"].T + outer["head.bias"]
    error = (logits.softmax(1) - torch.nn.functional.one_hot(y, 10)) / len(x)
    rows = []
    for state, pull in zip(z, error @ outer["head.weight"], strict=True):
        bend = torch.diag(1 - state**2)
        turned = torch.eye(task.hidden) - outer["recurrent.weight"].T @ bend
        rows.append(bend @ torch.linalg.solve(turned, pull))
    pushed = torch.stack(rows)
    return {
        "recurrent.weight": pushed.T @ z,
        "input.weight": pushed.T @ x,
        "input.bias": pushed.sum(0),
        "head.weight": error.T @ z,
        "head.bias": error.sum(0),
    }


METHODS: dict[str, Hypergradient[Any]] = {
    "exact": Implicit(Exact(0.0, None), warm_adjoint=False, curvature="hessian", clip=None),
    "neumann": Implicit(Neumann(200, 1.0), warm_adjoint=False, curvature="hessian", clip=None),
    "least_squares": Implicit(
        LeastSquares(2000, 0.7), warm_adjoint=False, curvature="hessian", clip=None
    ),
    "fixed_point": FixedPoint(200, warm_adjoint=False),
    "reverse": Reverse(window=None, segment=None),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_differentiates_the_fixed_point_of_the_layer(name: str) -> None:
    task = made()
    outer, data = away(task), task.sample(200, seeded())
    # The layer contracts by 0.8 at least: 200 applications leave 1e-19 of an error.
    found = estimate(METHODS[name], task, data, outer, solver=GradientDescent(1.0)).grad
    expected = closed_form(task, outer)
    gap = trees.axpy(-1.0, expected, found)
    assert trees.norm(gap) <= 1e-9 * trees.norm(expected)


def test_the_field_vanishes_at_settled_states_alone() -> None:
    task = made()
    outer, data = away(task), task.sample(1, seeded())
    z = task.settled(outer, task.train["x"])
    batch = data.inner_at(0)
    assert task.inner_field({"z": z}, outer, batch)["z"].abs().max() < 1e-5
    assert task.inner_loss({"z": z}, outer, batch) < 1e-9
    assert task.inner_loss(data.init, outer, batch) > 1e-2


def test_recurrent_weights_are_brought_back_to_their_bound() -> None:
    task = made()
    outer = {**task.init_outer(seeded()), "recurrent.weight": torch.ones(4, 4)}
    found = task.project_outer(outer)["recurrent.weight"]
    torch.testing.assert_close(found, torch.full((4, 4), 0.2))  # of norm 0.8
    within = {**outer, "recurrent.weight": 0.1 * torch.ones(4, 4)}
    assert torch.equal(task.project_outer(within)["recurrent.weight"], within["recurrent.weight"])
    zero = {**outer, "recurrent.weight": torch.zeros(4, 4)}
    assert torch.equal(task.project_outer(zero)["recurrent.weight"], torch.zeros(4, 4))


def test_minibatches_have_states_and_labels_of_their_own_rows() -> None:
    task = made(batch_size=2)
    data = task.sample(3, seeded())
    assert data.init["z"].shape == (2, 4)
    assert data.inner["x"].shape == (3, 2, 64)
    for x, y in zip(data.outer["x"], data.outer["y"], strict=True):
        row = int((task.train["x"] == x).all(1).nonzero())
        assert task.train["y"][row] == y


@pytest.mark.slow
def test_the_layer_learns_digits() -> None:
    task = Equilibrium(10, 0.9, None, Digits(300, 1, 300), CPU, seeded())
    outer, data = task.init_outer(seeded()), task.sample(20, seeded())
    optimizer = torch.optim.Adam(list(outer.values()), lr=0.02)
    for _ in range(150):
        found = estimate(METHODS["fixed_point"], task, data, outer, solver=GradientDescent(1.0))
        for name, x in outer.items():
            x.grad = found.grad[name]
        optimizer.step()
        for name, x in task.project_outer(outer).items():
            outer[name].copy_(x)
    scores = task.evaluate(None, outer, data.init)  # type: ignore[arg-type]  # it needs no loop
    assert scores["test_accuracy"] > 0.9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bound": 1.0}, r"bound in \(0, 1\), got bound=1.0"),
        ({"hidden": 0}, "hidden >= 1, got hidden=0"),
        ({"batch_size": 9}, "batch_size"),
    ],
)
def test_a_layer_that_need_not_contract_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(**changes)
