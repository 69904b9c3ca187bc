"""Missing flows: the inner solution in closed form, and what all exact methods say of it."""

import pytest
import torch
from exact_methods import EXACT, hypergradients
from network_flow.network_flow import EDGES, NetworkFlow
from torch import Tensor

from bilevel_cli import autodiff, check_task
from bilevel_cli.solvers.momentum import Momentum


def task(noise: float = 0.1, per_edge: bool = True) -> NetworkFlow:
    generator = torch.Generator().manual_seed(0)
    return NetworkFlow(noise, per_edge, torch.device("cpu"), generator)


def filled_in(posed: NetworkFlow, theta: Tensor) -> Tensor:
    """x* of the unknown edges U, a row at a time: (A_U' A_U + Q) x = -A_U' A_M flow_M."""
    features, a_all, flow, asked = (posed.network[n] for n in ("features", "a", "flow", "asked"))
    q = (features @ theta).exp() + 1e-3
    rows = []
    for hidden in asked | asked[-1]:
        a, known = a_all[:, hidden], a_all[:, ~hidden] @ flow[~hidden]
        x = torch.linalg.solve(a.T @ a + torch.diag(q[hidden]), -a.T @ known)
        rows.append(torch.zeros_like(q).masked_scatter(hidden, x))
    return torch.stack(rows)


def test_the_contract_of_tasks_is_kept() -> None:
    check_task(task())


def test_flows_balance_at_every_node_and_each_measured_edge_is_held_back_once() -> None:
    posed = task()
    network = posed.network
    assert (network["a"] @ network["flow"]).abs().max() < 1e-12
    assert (network["asked"].sum(0) == 1).all()
    assert network["asked"][-1].sum() == EDGES // 5


def test_all_exact_methods_find_the_derivative_of_the_closed_form() -> None:
    # Penalties are near 1 and the largest curvature is below 20, so that momentum converges soon.
    posed, theta = task(), torch.tensor([1.0, -0.5, 0.3])
    expected = autodiff.grad(
        lambda theta: posed.outer_loss({"x": filled_in(posed, theta)}, {}, posed.network)
    )(theta)
    found = hypergradients(posed, Momentum(lr=0.12, momentum=0.4), 60, {"theta": theta})
    assert found.keys() == EXACT.keys()
    for name, grad in found.items():
        assert (grad["theta"] - expected).norm() < 1e-8 * expected.norm(), name


def test_a_noise_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="noise >= 0, got -1"):
        task(noise=-1)
