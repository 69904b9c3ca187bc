"""Flows in a network, some of which nobody measured."""

import torch
from torch import Tensor

from bilevel_cli import Batch, InnerLoop, Params, StepData, Task

NODES, EDGES, FOLDS = 40, 110, 5
LEAST = 1e-3  # penalty, so that the inner problem has one solution whatever is learned


class NetworkFlow(Task):
    """A penalty q_e for each edge e, with which missing flows x are filled in.

        f(x, theta) = |A x|^2 / 2 + sum_e q_e x_e^2 / 2,   q_e = exp(theta . features_e) + 0.001
        F(x)        = the mean squared error on measured edges that were held back

    A is the incidence matrix: A x = 0 where what flows into each node flows out. Row k of x holds
    back part k of the measured edges. The last row has them all, for the scores.

    Scores: root mean square error on the edges that were not measured, and that of zeros there.

    Args:
        noise: Standard deviation of the noise of the feature that tells wide edges, >= 0.
        per_edge: Whether penalties follow the features of edges; else all edges share one.
        device: Where the network lives. Given by the run.
        generator: Draws the network, the same for all methods of one seed. Given by the run.
    """

    def __init__(
        self, noise: float, per_edge: bool, device: torch.device, generator: torch.Generator
    ) -> None:
        if not noise >= 0:
            raise ValueError(f"NetworkFlow needs noise >= 0, got {noise}. Set task.noise.")
        pairs = torch.combinations(torch.arange(NODES))
        ends = pairs[torch.randperm(len(pairs), generator=generator)[:EDGES]]
        a = torch.zeros(EDGES, NODES).scatter(1, ends, torch.tensor([[-1.0, 1.0]] * EDGES)).T
        wide = (torch.rand(EDGES, generator=generator) < 0.3).to(a)
        width = 1 + 24 * wide  # they carry 25 times as much
        flow = width * torch.randn(EDGES, generator=generator)
        flow = flow - width * (a.T @ torch.linalg.pinv(a * width @ a.T) @ a @ flow)  # A flow = 0
        seen, useless = torch.randn(2, EDGES, generator=generator)
        told = [torch.ones(EDGES), wide + noise * seen, useless][: 3 if per_edge else 1]
        part = torch.arange(EDGES) % FOLDS
        part[-(EDGES // 5) :] = FOLDS  # a fifth of the edges is not measured: the last part
        part = part[torch.randperm(EDGES, generator=generator)]
        asked = part == torch.arange(FOLDS + 1)[:, None]
        features, flow = torch.stack(told, dim=1), flow / flow.abs().max()
        batch = {"a": a, "flow": flow, "features": features, "asked": asked}
        self.network: Batch = {name: value.to(device) for name, value in batch.items()}

    def init_outer(self, generator: torch.Generator) -> Params:
        features = self.network["features"]
        return {"theta": -2.0 * torch.eye(features.shape[1]).to(features)[0]}

    def init_inner(self, outer: Params, data: StepData) -> Params:
        return data.init

    def sample(self, num_steps: int, generator: torch.Generator) -> StepData:
        steps = {name: x.expand(num_steps, *x.shape) for name, x in self.network.items()}
        zeros = torch.zeros_like(self.network["flow"]).repeat(FOLDS + 1, 1)
        return StepData({"x": zeros}, steps, self.network)

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        q = (batch["features"] @ outer["theta"]).exp() + LEAST
        hidden = batch["asked"] | batch["asked"][-1]
        excess = torch.where(hidden, inner["x"], batch["flow"]) @ batch["a"].T
        return 0.5 * (excess.square().sum() + (q * inner["x"].square()).sum())

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return errors(inner["x"], batch)[:-1].mean()

    def evaluate(self, loop: InnerLoop, outer: Params, inner: Params) -> dict[str, Tensor]:
        filled, zeros = (errors(x, self.network)[-1] for x in (inner["x"], 0 * inner["x"]))
        return {"test_rmse": filled.sqrt(), "zero_rmse": zeros.sqrt()}


def errors(x: Tensor, network: Batch) -> Tensor:
    """The mean squared error of each row of x on the edges that it is asked for, [FOLDS + 1]."""
    return (network["asked"] * (x - network["flow"]) ** 2).sum(1) / network["asked"].sum(1)
