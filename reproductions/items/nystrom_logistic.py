"""A weight decay for every input of a logistic regression: Nystrom without a step size."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Batch, Problem, StepData
from bilevel_cli.core.trees import Params
from bilevel_cli.linear_solvers.base import LinearSolver
from bilevel_cli.linear_solvers.cg import ConjugateGradient
from bilevel_cli.linear_solvers.exact import Exact
from bilevel_cli.linear_solvers.neumann import Neumann
from bilevel_cli.linear_solvers.nystrom import Nystrom
from bilevel_cli.methods.implicit import Implicit
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.starts.cold import Cold
from reproductions.figure import legend
from reproductions.item import Figure, Item, Row, above, below
from reproductions.results import Results

EXAMPLES, DIM, NOISE = 1000, 100, 0.1
INNER_STEPS, INNER_LR = 100, 0.1
OUTER_STEPS, OUTER_LR, MOMENTUM, EVERY = 1000, 1.0, 0.9, 20
SCALES = (0.01, 0.1, 1.0)  # the damping of Nystrom, the step size of Neumann
RANK, LEAST = 5, 1e-8
SOLVERS: dict[str, LinearSolver] = {
    **{f"Nystrom {scale:g}": Nystrom(RANK, scale) for scale in SCALES},
    **{f"Neumann {scale:g}": Neumann(RANK, scale) for scale in SCALES},
    "CG": ConjugateGradient(RANK, 0.0),
    "exact": Exact(0.0, None),
}


class Decays(Problem):
    """f = mean softplus(-y x'w) + sum_i lambda_i w_i^2 / 2 on one half, F without decay on another.

    y = 1 where x'w_0 + noise > 0, else -1, with x and w_0 standard normal.
    """

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(EXAMPLES, DIM, generator=generator)
        score = x @ torch.randn(DIM, generator=generator)
        score = score + NOISE * torch.randn(EXAMPLES, generator=generator)
        y = torch.where(score > 0, 1.0, -1.0)
        half = EXAMPLES // 2
        self.train, self.validation = x[:half] * y[:half, None], x[half:] * y[half:, None]

    def init_inner(self, outer: Params, data: StepData) -> Params:
        return data.init

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        decay = 0.5 * (outer["decay"] * inner["w"].square()).sum()
        return _mean_loss(self.train @ inner["w"]) + decay

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return _mean_loss(self.validation @ inner["w"])


def _mean_loss(margins: Tensor) -> Tensor:
    return -torch.nn.functional.logsigmoid(margins).mean()


def course(solver: LinearSolver) -> list[float]:
    """The validation loss along a run, every `EVERY` outer steps."""
    problem = Decays()
    loop, method = (
        InnerLoop(problem, GradientDescent(INNER_LR), Cold()),
        Implicit(solver, False, "hessian", None),
    )
    decay = torch.ones(DIM)
    data = StepData({"w": torch.zeros(DIM)}, {"unused": torch.zeros(INNER_STEPS)}, {})
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD([decay], OUTER_LR, MOMENTUM)
    carry = method.init({"decay": decay}, loop.fresh({"decay": decay}, data))
    found = []
    for step in range(OUTER_STEPS + 1):
        outer = {"decay": decay}
        drawn = data._replace(noise=method.draw(outer, generator))
        estimate = method.estimate(loop, outer, drawn, carry)
        if step % EVERY == 0:
            found.append(float(estimate.loss))
        decay.grad = estimate.grad["decay"]
        optimizer.step()
        decay.clamp_(min=LEAST)
    return found


def measure(folder: Path) -> None:
    """Writes courses.csv: the validation loss, a column for each linear solver."""
    table = pd.DataFrame({name: course(solver) for name, solver in SOLVERS.items()})
    table.insert(0, "step", EVERY * np.arange(len(table)))
    table.to_csv(folder / "courses.csv", index=False)


def losses(results: Results, kind: str, step: int) -> Any:
    """The validation losses at an outer step, of the solvers whose names begin so."""
    names = [name for name in SOLVERS if name.startswith(kind)]
    return np.array([results.cell("courses", step, name) for name in names])


def lasts(results: Results, name: str) -> float:
    """The last outer step at which the validation loss was a number; NaN where nothing was run."""
    table = results.table("courses")
    return float(table.index[table[name].notna()].max()) if len(table) else math.nan


def rows(results: Results) -> list[Row]:
    nystrom, early = (losses(results, "Nystrom", step) for step in (OUTER_STEPS, 2 * EVERY))
    exact = float(losses(results, "exact", OUTER_STEPS)[0])
    slow = float(losses(results, "Neumann 0.01", OUTER_STEPS)[0])
    paper = "Hataya & Yamada (2023), in words"
    return [
        Row(
            "Nystrom: largest over least validation loss, damping over two decades",
            below(1.1, "does not depend on it"),
            paper,
            float(nystrom.max() / nystrom.min()),
        ),
        Row(
            f"the same after {2 * EVERY} outer steps",
            below(1.1, "does not depend on it"),
            paper,
            float(early.max() / early.min()),
            "a damping of 1 shortens the hypergradient: the loss falls more slowly at first",
        ),
        Row(
            "Nystrom with the damping that serves worst, over exact",
            below(1.1, "close to 1"),
            "reading of the paper",
            float(nystrom.max() / exact),
        ),
        Row(
            "Neumann with a step size of 0.01, over exact",
            above(1.1, "depends on it"),
            paper,
            slow / exact,
        ),
        Row(
            "Neumann with a step size of 1: the last outer step before it diverges",
            below(OUTER_STEPS, "can diverge"),
            paper,
            lasts(results, "Neumann 1"),
        ),
    ]


def courses(results: Results, figure: Any) -> None:
    pane = figure.subplots()
    table = results.table("courses")
    styles = dict(zip(SCALES, ("-", "--", ":"), strict=True))
    for name in SOLVERS if len(table) else ():
        kind, _, scale = name.partition(" ")
        color = {"Nystrom": "C0", "Neumann": "C1", "CG": "C2", "exact": "black"}[kind]
        style = styles[float(scale)] if scale else "-"
        pane.plot(table.index, table[name], style, color=color, lw=0.9, label=name)
    pane.set(xlabel="outer step", ylabel="validation loss", yscale="log")
    legend(pane)


ITEM = Item(
    order=20,
    title="A weight decay for every input of a logistic regression (Hataya & Yamada, 2023, "
    "arXiv:2302.09726)",
    about=f"{EXAMPLES} examples of {DIM} inputs, half of them for training; {INNER_STEPS} steps of "
    f"{INNER_LR} from zero in each of {OUTER_STEPS} outer steps (SGD, {OUTER_LR:g}, momentum "
    f"{MOMENTUM}; decays are kept >= {LEAST:g}). Five columns of the Hessian for Nystrom, as many "
    "products for Neumann and CG.",
    open="The figures of the paper's curves are not known here. Its code for conjugate gradient "
    "updates the direction by the residual before, and its Neumann series takes a term more: ours "
    "are the textbook's, and CG has no step size to vary.",
    runs=(),
    rows=rows,
    figures=(Figure("nystrom_logistic", "Validation loss of all linear solvers.", courses),),
    measure=measure,
)
