"""A linear system in which early and late effects of an outer parameter are opposite."""

import math

import torch
from torch import Tensor

from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Batch, StepData
from bilevel_cli.core.task import FieldTask
from bilevel_cli.core.trees import Params


class InfluenceBalancing(FieldTask):
    """s_{t+1} = A s_t + theta c from s_0 = 1, and L_t = (s_t[0] - 1)^2 / 2.

    A has 1/2 on the diagonal and on the first superdiagonal; c is +1 in its first entries and -1 in
    the others. So s[0] first moves by +theta for each positive entry, and at last by
    2 (positive - negative) theta. A derivative that is cut after few steps has the wrong sign
    (Tallec & Ollivier, 2017, arXiv:1705.08209; Vicol, Kolter & Swersky, 2023, arXiv:2304.11153).

    One inner step of `solver=gd` with step size 1 is one step of the system: the inner field is
    s - (A s + theta c). A is not symmetric, so it is the gradient of no loss.

        F = mean of L_t over the inner steps of an outer step    where `averaged`,
        F = L_t after the last of them                           where not.

    The mean is an inner parameter besides s, which begins anew with each outer step. Under
    `start=warm` the system goes on, and derivatives are cut between outer steps: truncated
    backpropagation. PES and ES-Single average over their windows themselves.

    Scores, of `horizon` steps from s_0 at the present theta: the mean of L_t; its derivative; the
    distance of theta to the best one; theta.

    Args:
        positive: Entries of c that are +1, >= 1.
        negative: Entries of c that are -1, >= 0.
        theta: Where theta begins.
        averaged: Whether F is a mean over steps.
        horizon: Steps of an evaluation, >= 1.
        device: Where the system lives.
    """

    def __init__(
        self,
        positive: int,
        negative: int,
        theta: float,
        averaged: bool,
        horizon: int,
        device: torch.device,
    ) -> None:
        for name, count, least in (
            ("positive", positive, 1),
            ("negative", negative, 0),
            ("horizon", horizon, 1),
        ):
            if count < least:
                raise ValueError(
                    f"InfluenceBalancing needs {name} >= {least}, got {name}={count}. "
                    f"Set task.{name}."
                )
        if not math.isfinite(theta):
            raise ValueError(f"InfluenceBalancing needs a finite theta, got theta={theta}.")
        size = positive + negative
        matrix = 0.5 * (torch.eye(size) + torch.diag(torch.ones(size - 1), 1))
        push = torch.ones(size)
        push[positive:] = -1.0
        self.matrix, self.push = matrix.to(device), push.to(device)
        self.theta = torch.tensor(float(theta), device=device)
        self.averaged = averaged
        self.base, self.moved = (x.to(self.push) for x in _trajectory(matrix, push, horizon))

    def init_outer(self, generator: torch.Generator) -> Params:
        return {"theta": self.theta.clone()}

    def sample(self, num_steps: int, generator: torch.Generator) -> StepData:
        start = {"s": torch.ones_like(self.push)}
        if self.averaged:
            start["mean"] = torch.zeros_like(self.theta)
        steps = torch.arange(num_steps, device=self.push.device).to(self.push.dtype)
        return StepData(start, {"step": steps}, {})

    def inner_field(self, inner: Params, outer: Params, batch: Batch) -> Params:
        s = inner["s"]
        following = self.matrix @ s + outer["theta"] * self.push
        field = {"s": s - following}
        if self.averaged:
            # The mean of a step's number k of losses and of one more: it begins anew where k = 0.
            change = (_loss(following[0]) - inner["mean"]) / (batch["step"] + 1)
            field["mean"] = -change
        return field

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return inner["mean"] if self.averaged else _loss(inner["s"][0])

    def evaluate(self, loop: InnerLoop, outer: Params, inner: Params) -> dict[str, Tensor]:
        theta, gap = outer["theta"], self.base - 1
        best = -(self.moved @ gap) / self.moved.square().sum()
        error = gap + theta * self.moved
        return {
            "loss": 0.5 * error.square().mean(),
            "slope": (error * self.moved).mean(),
            "distance": (theta - best).abs(),
            "theta": theta,
        }


def _loss(first: Tensor) -> Tensor:
    return 0.5 * (first - 1) ** 2


def _trajectory(matrix: Tensor, push: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """a_t and r_t of s_t[0] = a_t + theta r_t, for t = 1 .. steps, each [steps], in float64."""
    matrix, push = matrix.double(), push.double()
    a, r = torch.ones_like(push), torch.zeros_like(push)
    found = []
    for _ in range(steps):
        a, r = matrix @ a, matrix @ r + push
        found.append(torch.stack([a[0], r[0]]))
    base, moved = torch.stack(found).T
    return base, moved
