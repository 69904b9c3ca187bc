"""Hyperparameters of sampled inner parameters, which methods for a minimiser do not see."""

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from sklearn.datasets import load_diabetes
from torch import Tensor

from bilevel_cli.core import autodiff
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Hypergradient
from bilevel_cli.core.problem import Batch, Problem, StepData
from bilevel_cli.core.solver import InnerSolver
from bilevel_cli.core.trees import Params
from bilevel_cli.linear_solvers.exact import Exact
from bilevel_cli.methods.implicit import Implicit
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.methods.score import Score
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.solvers.langevin import Langevin
from bilevel_cli.starts.cold import Cold
from reproductions.figure import legend
from reproductions.item import DERIVED, THEORY, Figure, Item, Row, above, near
from reproductions.results import Results

A, LAM, C, TAU = 2.0, 0.7, -0.4, 0.3
TAUS = (0.001, 0.01)


class Toy(Problem):
    """f = (a / 2) (z - lambda)^2, F = (z - c)^2 / 2."""

    outer = {"lam": torch.tensor(LAM), "a": torch.tensor(A)}  # noqa: RUF012 - never written to

    def init_inner(self, outer: Params, data: StepData) -> Params:
        return data.init

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return 0.5 * outer["a"] * (inner["z"] - outer["lam"]).square()

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return 0.5 * (inner["z"] - C).square()

    def begun(self) -> Params:
        return {"z": torch.tensor(LAM)}


class ScaledRidge(Problem):
    """exp(a) times ridge regression with a penalty exp(lambda_j) for each of ten features.

    The scale exp(a) does not move the minimiser. It says how wide exp(-f / tau) is around it.
    """

    outer = {"log_l2": torch.zeros(10), "scale": torch.tensor(0.0)}  # noqa: RUF012 - likewise

    def __init__(self) -> None:
        x, y = load_diabetes(return_X_y=True)
        x, y = (torch.tensor((part - part.mean(0)) / part.std(0)) for part in (x, y))
        self.x, self.y, self.validation = x[:200], y[:200], (x[200:400], y[200:400])

    def init_inner(self, outer: Params, data: StepData) -> Params:
        return data.init

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        penalty = 0.5 * (outer["log_l2"].exp() * inner["w"].square()).sum()
        return outer["scale"].exp() * (self.error(inner, self.x, self.y) + penalty)

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return self.error(inner, *self.validation)

    def error(self, inner: Params, x: Tensor, y: Tensor) -> Tensor:
        return 0.5 * (x @ inner["w"] - y).square().mean()

    def begun(self) -> Params:
        return {"w": self.solved()[0]}

    def solved(self) -> tuple[Tensor, Tensor, Tensor]:
        """w*, and the Hessians of f and F."""
        hessian = self.x.T @ self.x / len(self.y) + torch.eye(10)
        x, y = self.validation
        return (
            torch.linalg.solve(hessian, self.x.T @ self.y / len(self.y)),
            hessian,
            x.T @ x / len(y),
        )

    def closed_form(self, tau: float) -> Params:
        """The derivative of E F = F(w*) + tau tr(F'' f''^-1) / 2."""
        best, hessian, outer_hessian = self.solved()
        x, y = self.validation
        inverse = torch.linalg.inv(hessian)
        spread = inverse @ outer_hessian @ inverse
        point = -best * (inverse @ (x.T @ (x @ best - y) / len(y)))
        wide = 0.5 * tau * torch.trace(outer_hessian @ inverse)
        return {"log_l2": point - 0.5 * tau * spread.diagonal(), "scale": -wide}


def estimated(
    problem: Any, method: Hypergradient[Any], solver: InnerSolver[Any], steps: int, chains: int
) -> list[dict[str, Any]]:
    """Mean and standard error over chains, for each entry of the outer parameters."""
    loop = InnerLoop(problem, solver, Cold())
    data = StepData(problem.begun(), {"unused": torch.zeros(steps)}, {})
    drawn = loop.draw(problem.outer, data, chains * steps, torch.Generator().manual_seed(0))
    every = {n: x.reshape(chains, steps, *x.shape[1:]) for n, x in drawn.items()}

    def one(draws: Params) -> tuple[Params, Tensor]:
        given = data._replace(draws=draws)
        fresh = loop.fresh(problem.outer, given)
        found = method.estimate(loop, problem.outer, given, method.init(problem.outer, fresh))
        return found.grad, found.loss

    grad, loss = autodiff.vmap(one)(every)
    named = {"J": loss} | {
        f"{name} {index}".removesuffix(" 0"): x
        for name, value in grad.items()
        for index, x in enumerate(value.reshape(chains, -1).T)
    }
    return [
        {"name": name, "mean": float(x.mean()), "error": float(x.std()) / chains**0.5}
        for name, x in named.items()
    ]


def measure(folder: Path) -> None:
    """Writes toy.csv, path.csv, ridge.csv."""
    toy, ridge = Toy(), ScaledRidge()
    score = Score(burn_in=0.5, batches=10)
    found = estimated(toy, score, Langevin(0.02, TAU), steps=4000, chains=1000)
    pd.DataFrame(found).to_csv(folder / "toy.csv", index=False)
    found = estimated(toy, Reverse(None, None), Langevin(0.02, TAU), steps=300, chains=20_000)
    pd.DataFrame(found).to_csv(folder / "path.csv", index=False)

    loop = InnerLoop(ridge, GradientDescent(0.1), Cold())
    data = StepData(ridge.begun(), {"unused": torch.zeros(100)}, {})
    implicit = Implicit(Exact(0.0, None), warm_adjoint=False, curvature="hessian", clip=None)
    carry = implicit.init(ridge.outer, loop.fresh(ridge.outer, data))
    point = implicit.estimate(loop, ridge.outer, data, carry).grad
    table = [_compared(0.0, point, ridge.closed_form(0.0), 0.0)]
    for tau in TAUS:
        rows = estimated(ridge, score, Langevin(0.02, tau), steps=6000, chains=100)
        means, errors = ({row["name"]: row[column] for row in rows} for column in ("mean", "error"))
        grad = {
            "scale": torch.tensor(means["scale"]),
            "log_l2": torch.tensor(
                [means["log_l2" if j == 0 else f"log_l2 {j}"] for j in range(10)]
            ),
        }
        table.append(_compared(tau, grad, ridge.closed_form(tau), errors["scale"]))
    pd.DataFrame(table).to_csv(folder / "ridge.csv", index=False)


def _compared(tau: float, found: Params, exact: Params, error: float) -> dict[str, float]:
    gap = (found["log_l2"] - exact["log_l2"]).norm() / exact["log_l2"].norm()
    return {
        "tau": tau,
        "scale": float(found["scale"]),
        "exact": float(exact["scale"]),
        "error": error,
        "penalties": float(gap),
    }


def rows(results: Results) -> list[Row]:
    # lr a / 2 = 2 % of the width in each step size, and (1 + rho) / (1 - rho) / n = 2.5 % of the
    # covariance in each length, besides the standard errors of some chains.
    found = [
        Row("toy: J by score", near(0.68, 0.01), DERIVED, results.cell("toy", "J", "mean")),
        Row("toy: dJ/dlambda by score", near(1.1, 0.05), DERIVED, _cell(results, "toy", "lam")),
        Row("toy: dJ/da by score", near(-0.0375, 0.004), DERIVED, _cell(results, "toy", "a")),
        Row("toy: dJ/dlambda by reverse", near(1.1, 0.02), DERIVED, _cell(results, "path", "lam")),
        Row("toy: dJ/da by reverse", near(-0.0375, 0.004), DERIVED, _cell(results, "path", "a")),
        Row(
            "ridge, tau = 0: dJ/da by method=exact",
            near(0.0, 1e-9),
            THEORY,
            results.cell("ridge", 0.0, "scale"),
        ),
    ]
    for tau in TAUS:
        exact = results.cell("ridge", tau, "exact")
        found += [
            Row(
                f"ridge, tau = {tau:g}: dJ/da by score, over the closed form",
                near(1.0, 0.1),
                THEORY,
                results.cell("ridge", tau, "scale") / exact,
            ),
            Row(
                f"ridge, tau = {tau:g}: the same, in standard errors from 0",
                above(10.0),
                THEORY,
                -results.cell("ridge", tau, "scale") / results.cell("ridge", tau, "error"),
            ),
        ]
    return found


def _cell(results: Results, table: str, name: str) -> float:
    return results.cell(table, name, "mean")


def curves(results: Results, figure: Any) -> None:
    pane = figure.subplots()
    table = results.table("ridge")
    if len(table):
        pane.errorbar(table.index, table["scale"], 2 * table["error"], fmt="o", label="estimated")
        pane.plot(table.index, table["exact"], label="closed form")
    pane.set(xlabel="temperature tau", ylabel="dJ/da of the scale exp(a)")
    legend(pane)


ITEM = Item(
    order=15,
    title="Sampled inner parameters (Kim & Hospedales, arXiv:2410.10417)",
    about="J = E F over exp(-f / tau). The toy f = (a / 2)(z - lambda)^2, F = (z - c)^2 / 2 has a "
    "closed form; 1000 chains of 4000 Langevin steps. Ridge regression on the diabetes data has a "
    "scale exp(a) of f besides ten penalties: it does not move the minimiser, so methods for a "
    "minimiser find a derivative of exactly zero, and does change J. 100 chains of 6000 steps.",
    open="The text of the paper was not readable, so no number of it is compared: the closed forms "
    "are ours.",
    runs=(),
    rows=rows,
    figures=(
        Figure(
            "sampled_parameters",
            "Ridge regression: the derivative in the scale of f, with two standard errors.",
            curves,
        ),
    ),
    measure=measure,
)
