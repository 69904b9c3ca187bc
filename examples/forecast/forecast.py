"""Forecasts from a history that grows stale."""

import torch
from torch import Tensor

from bilevel_cli import Batch, InnerLoop, Params, StepData, Task

FEATURES, TIMES, HORIZON = 8, 300, 5
ORIGINS = torch.arange(60, TIMES, HORIZON)  # the times at which a forecast is made
LEARNED = 24  # of them, those before time 180; the later ones are for the scores


class Forecast(Task):
    """The half-life h of past examples, and a penalty p_j for each feature of linear forecasts.

        f(w, lambda) = sum_t [sum_{s < t} a_ts (x_s . w_t - y_s)^2 + sum_j p_j w_tj^2] / 2
        F(w)         = the mean of (x_s . w_t - y_s)^2 / 2 over t <= s < t + 5 and times t < 180

    with weights a_ts in proportion to 2^((s - t) / h), of sum 1. Row w_t of w forecasts from time
    t = 60, 65, 70, ..., and sees nothing of what comes later.

    Scores: root mean square error of forecasts from time 180 on, and h where it is learned.

    Args:
        drift: Standard deviation by which a weight of the truth moves at each time, >= 0.
        forget: Whether the half-life is learned; else all of the past counts alike.
        device: Where the series lives. Given by the run.
        generator: Draws the series, the same for all methods of one seed. Given by the run.
    """

    def __init__(
        self, drift: float, forget: bool, device: torch.device, generator: torch.Generator
    ) -> None:
        if not drift >= 0:
            raise ValueError(f"Forecast needs drift >= 0, got {drift}. Set task.drift.")
        used = torch.arange(FEATURES) < FEATURES // 2  # the others tell nothing
        moves = drift * torch.randn(TIMES, FEATURES, generator=generator)
        truth = used * (torch.randn(FEATURES, generator=generator) + moves.cumsum(0))
        x = torch.randn(TIMES, FEATURES, generator=generator)
        y = (x * truth).sum(1) + torch.randn(TIMES, generator=generator)
        age = ORIGINS[:, None] - torch.arange(TIMES)  # of each example, for each forecast
        self.series: Batch = {"x": x.to(device), "y": y.to(device)}
        self.age, self.past = age.clamp(min=0).to(self.series["x"]), (age > 0).to(device)
        self.next = ((age <= 0) & (age > -HORIZON)).to(self.age) / HORIZON
        self.forget = forget

    def init_outer(self, generator: torch.Generator) -> Params:
        penalties = {"log_penalty": self.age.new_full([FEATURES], -2.0)}
        return penalties | ({"log_half_life": self.age.new_tensor(4.0)} if self.forget else {})

    def project_outer(self, outer: Params) -> Params:
        # A larger penalty takes a feature away no better, and asks for smaller inner steps.
        return outer | {"log_penalty": outer["log_penalty"].clamp(max=1.0)}

    def init_inner(self, outer: Params, data: StepData) -> Params:
        return data.init

    def sample(self, num_steps: int, generator: torch.Generator) -> StepData:
        steps = {name: value.expand(num_steps, *value.shape) for name, value in self.series.items()}
        return StepData({"w": self.age.new_zeros(len(ORIGINS), FEATURES)}, steps, self.series)

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        forgotten = (-outer["log_half_life"]).exp() if self.forget else 0.0
        weights = self.past * 2 ** (-self.age * forgotten)
        weights = weights / weights.sum(1, keepdim=True)
        penalty = (outer["log_penalty"].exp() * inner["w"].square()).sum()
        return 0.5 * ((weights * squares(inner, batch)).sum() + penalty)

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return 0.5 * (self.next * squares(inner, batch))[:LEARNED].sum() / LEARNED

    def evaluate(self, loop: InnerLoop, outer: Params, inner: Params) -> dict[str, Tensor]:
        later = (self.next * squares(inner, self.series))[LEARNED:].sum(1).mean()
        half_life = {"half_life": outer["log_half_life"].exp()} if self.forget else {}
        return {"test_rmse": later.sqrt(), **half_life}


def squares(inner: Params, batch: Batch) -> Tensor:
    """The squared error of each forecast at each time, [forecasts, times]."""
    return (inner["w"] @ batch["x"].T - batch["y"]).square()
