"""A schedule of step sizes on a wavy surface: PES and ES-Single against what truncates."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Hypergradient
from bilevel_cli.core.problem import Batch, Problem, StepData
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.es import Es
from bilevel_cli.methods.es_single import EsSingle
from bilevel_cli.methods.pes import Pes
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.starts.cold import Cold
from bilevel_cli.starts.warm import Warm
from reproductions.figure import legend
from reproductions.item import Figure, Item, Row, above, below
from reproductions.results import Results

STEPS, WINDOW = 100, 10  # T and K
PARTICLES, STD, PLAIN_STD = 100, 0.3, 1.0
LR, OUTER_STEPS, EVERY = 0.01, 2000, 50
SEEDS = range(3)
START, FIRST = (1.0, 1.0), 0.01  # x_0, and both step sizes at first
WINDOWS = STEPS // WINDOW
METHODS: dict[str, tuple[Hypergradient[Any], Any, int]] = {
    "PES": (Pes(PARTICLES // 2, STD, WINDOWS), Cold(), WINDOW),
    "ES-Single": (EsSingle(PARTICLES // 2, STD, WINDOWS), Cold(), WINDOW),
    "ES, truncated": (Es(PARTICLES // 2, PLAIN_STD), Warm(), WINDOW),
    "reverse, truncated": (Reverse(None, None), Warm(), WINDOW),
}


class Schedule(Problem):
    """Gradient descent on a wavy f(x), whose step size goes from exp(theta_0) to exp(theta_1).

    The field (step size) * grad f and the step count, which grows by 1, is that of `solver=gd` with
    step size 1. F = f(x).
    """

    def init_inner(self, outer: Params, data: StepData) -> Params:
        return data.init

    def inner_field(self, inner: Params, outer: Params, batch: Batch) -> Params:
        share = torch.remainder(inner["t"], STEPS) / STEPS
        first, last = outer["theta"].exp()
        rate = (1 - share) * first + share * last
        return {"x": rate * slope(inner["x"]), "t": -torch.ones_like(inner["t"])}

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return value(inner["x"])

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return value(inner["x"])


def value(x: Tensor) -> Tensor:
    """f at x [..., 2]."""
    first, second = x[..., 0], x[..., 1]
    bowl = (first**2 + 5).sqrt() - 5**0.5
    wave = second.sin() ** 2 * (-5 * first**2).exp()
    return bowl + wave + 0.25 * (second - 100).abs()


def slope(x: Tensor) -> Tensor:
    """The gradient of f at x [2]."""
    first, second = x
    hill = (-5 * first**2).exp()
    along = first / (first**2 + 5).sqrt() - 10 * first * second.sin() ** 2 * hill
    across = (2 * second).sin() * hill + 0.25 * (second - 100).sign()
    return torch.stack([along, across])


def whole(theta: Tensor) -> float:
    """The mean of f over all steps of an inner problem: what is to be small."""
    x, total = torch.tensor(START), 0.0
    first, last = theta.exp()
    for t in range(STEPS):
        x = x - ((1 - t / STEPS) * first + t / STEPS * last) * slope(x)
        total += float(value(x))
    return total / STEPS


def course(name: str, seed: int) -> list[float]:
    """The mean of f along the run of a method, every `EVERY` outer steps."""
    method, start, window = METHODS[name]
    loop = InnerLoop(Schedule(), GradientDescent(1.0), start)
    theta = torch.full((2,), FIRST).log()
    data = StepData(
        {"x": torch.tensor(START), "t": torch.zeros(())}, {"unused": torch.zeros(window)}, {}
    )
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam([theta], LR)
    carry = method.init({"theta": theta}, loop.fresh({"theta": theta}, data))
    found = []
    for step in range(OUTER_STEPS):
        if step % EVERY == 0:
            found.append(whole(theta))
        outer = {"theta": theta}
        if isinstance(start, Warm) and step % WINDOWS == 0:  # the inner problem begins again
            carry = method.init(outer, loop.fresh(outer, data))
        drawn = data._replace(noise=method.draw(outer, generator))
        estimate = method.estimate(loop, outer, drawn, carry)
        carry, theta.grad = estimate.carry, estimate.grad["theta"]
        optimizer.step()
    return [*found, whole(theta)]


def measure(folder: Path) -> None:
    """Writes courses.csv: the mean of f, a column for each method and seed."""
    columns = {f"{name} {seed}": course(name, seed) for name in METHODS for seed in SEEDS}
    table = pd.DataFrame(columns)
    table.insert(0, "step", EVERY * np.arange(len(table)))
    table.to_csv(folder / "courses.csv", index=False)


def ends(results: Results, name: str) -> Any:
    """The mean of f at the end, of each seed; NaN where nothing was run."""
    table = results.table("courses")
    if not len(table):
        return np.full(len(SEEDS), np.nan)
    return np.array([table[f"{name} {seed}"].iloc[-1] for seed in SEEDS])


def rows(results: Results) -> list[Row]:
    found = {name: ends(results, name) for name in METHODS}
    paper = "Vicol, Kolter & Swersky (2023), in words"
    return [
        Row(
            "ES-Single below truncated reverse mode, least of the seeds",
            above(0, "converges, where truncation does not"),
            paper,
            float((found["reverse, truncated"] - found["ES-Single"]).min()),
        ),
        Row(
            "PES below truncated reverse mode, least of the seeds",
            above(0, "likewise"),
            paper,
            float((found["reverse, truncated"] - found["PES"]).min()),
        ),
        Row(
            "ES-Single below truncated ES, least of the seeds",
            above(0, "likewise"),
            paper,
            float((found["ES, truncated"] - found["ES-Single"]).min()),
        ),
        Row(
            "ES-Single above PES, mean over paired seeds",
            below(0.5, "no worse"),
            paper,
            float((found["ES-Single"] - found["PES"]).mean()),
        ),
    ]


def courses(results: Results, figure: Any) -> None:
    pane = figure.subplots()
    table = results.table("courses")
    for number, name in enumerate(METHODS):
        for seed in SEEDS if len(table) else ():
            label = name if seed == 0 else None
            column = table[f"{name} {seed}"]
            pane.plot(table.index, column, color=f"C{number}", lw=0.8, label=label)
    pane.set(xlabel="outer step", ylabel="mean of f over an inner problem")
    legend(pane)


ITEM = Item(
    order=19,
    title="A schedule of step sizes on a wavy surface (Vicol, Kolter & Swersky, 2023, "
    "arXiv:2304.11153)",
    about=f"Gradient descent on f = sqrt(x_0^2 + 5) - sqrt(5) + sin(x_1)^2 exp(-5 x_0^2) + "
    f"|x_1 - 100| / 4 for {STEPS} steps; its step size goes from exp(theta_0) to exp(theta_1). An "
    f"outer step is a window of {WINDOW} steps and one step of Adam ({LR}); {PARTICLES} particles, "
    f"standard deviation {STD}, and {PLAIN_STD:g} for truncated ES. {len(SEEDS)} seeds, paired.",
    open=f"The paper's start is not in its text: x_0 = {START} and both step sizes {FIRST} are "
    "ours, and so is the number of outer steps.",
    runs=(),
    rows=rows,
    figures=(Figure("es_single_regression", "All seeds of four methods.", courses),),
    measure=measure,
)
