"""What the papers' statements on implicit bias say of linear-quadratic problems, as numbers."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Batch
from bilevel_cli.core.trees import Params
from bilevel_cli.linear_solvers.base import LinearSolver
from bilevel_cli.linear_solvers.cg import ConjugateGradient
from bilevel_cli.linear_solvers.exact import Exact
from bilevel_cli.linear_solvers.identity import Identity
from bilevel_cli.linear_solvers.neumann import Neumann
from bilevel_cli.linear_solvers.nystrom import Nystrom
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.starts.cold import Cold
from bilevel_cli.starts.warm import Warm
from bilevel_cli.tasks.examples.memory_toy import MemoryToy
from reproductions.figure import legend
from reproductions.fourier import CPU, LARGEST, STEP, Fourier, equilibrium, implicit, slope
from reproductions.item import DERIVED, THEORY, Figure, Item, Row, above, below, near
from reproductions.results import Results

TERMS = {1: 2.00, 2: 1.56, 5: 1.39, 10: 1.34, 100: 1.30, 1000: 1.30}
SHOWN = (1, 10, 100)
RANGE = Exact(damping=0.0, rtol=1e-10)  # the pseudo-inverse
UNROLLED = Reverse(window=None, segment=None)


def measure(folder: Path) -> None:
    """Writes statements.csv, filters.csv and inverses.csv."""
    torch.manual_seed(0)
    table = pd.DataFrame(dict(statements()).items(), columns=["statement", "value"])
    table.to_csv(folder / "statements.csv", index=False)
    filters().to_csv(folder / "filters.csv", index=False)
    inverses().to_csv(folder / "inverses.csv", index=False)


def statements() -> Iterator[tuple[str, float]]:
    for terms in TERMS:
        yield f"ratio {terms}", _ratio(terms)
    yield "proximal", _proximal()
    yield "unrolled", _unrolled()
    yield "nearest inner", _nearest_inner()
    yield "nearest outer", _nearest_outer()
    yield "projections", _projections()
    yield "null space", _null_space()
    yield from _turning()
    for name, solver, lr in (
        ("pseudo-inverse", RANGE, 1.0),
        ("10 terms", Neumann(10, STEP), 2.0),
        ("identity", Identity(), 0.38),
    ):
        yield f"fixed point, {name}", _fixed_point(solver, lr)
    yield "least inner", _least_inner()


def relative(found: Tensor, truth: Tensor) -> float:
    return float((found - truth).norm() / truth.norm())


def response(solver: LinearSolver, values: Tensor) -> Tensor:
    """What the solver makes of the eigenvalues: its solve of a diagonal system, rhs = 1."""
    rhs = torch.ones_like(values)
    return solver.solve(lambda v: values * v, rhs, torch.zeros_like(values)).solution


def _ratio(terms: int) -> float:
    """T1: the largest ratio of the series to damping by 1 / (step size * terms)."""
    values = torch.cat([torch.zeros(1), torch.logspace(-5, 0, 200)]) / STEP
    ratio = response(Neumann(terms, STEP), values)
    ratio = ratio / response(Exact(1 / (STEP * terms), rtol=None), values)
    return float(ratio.max()) if ratio.min() > 1 - 1e-10 else math.inf


def _proximal() -> float:
    """T1: damping against the exact response of a proximal problem."""
    labels = torch.randn(13)
    here = Fourier().solved(labels)

    class Proximal(Fourier):
        def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
            drift = inner["w"] - here["w"]
            return super().inner_loss(inner, outer, batch) + 0.5 * 0.3 * (drift @ drift)

    exact = slope(implicit(Exact(0.0, None)), Proximal(), labels, here, 1)
    return relative(slope(implicit(Exact(0.3, None)), Fourier(), labels, here, 1), exact)


def _unrolled() -> float:
    """T2: K steps unrolled, at the solution and from a cold start, against K terms."""
    task, labels, gaps = Fourier(), torch.randn(13), []
    for start in (task.solved(labels), {"w": torch.randn(13)}):
        for steps in (1, 5, 20):
            series = slope(implicit(Neumann(steps, STEP)), task, labels, start, steps)
            gaps.append(relative(slope(UNROLLED, task, labels, start, steps), series))
    return max(gaps)


def _nearest_inner() -> float:
    """T3: where gradient descent from w_0 ends, against the projection of w_0 on all solutions."""
    task, labels, start = Fourier(), torch.randn(13), torch.randn(13)
    loop = InnerLoop(task, GradientDescent(STEP), Warm())
    data = task.sample(2000, torch.Generator())
    found = loop.run({"inner": {"w": start}}, {"labels": labels}, data)["inner"]["w"]
    return relative(found, start + task.best_response @ (labels - task.features @ start))


def _nearest_outer() -> float:
    """T4: where outer descent from u_0 ends, against the nearest u with F = 0."""
    task, start = Fourier(), torch.randn(13)
    jacobian = task.original @ task.best_response
    nearest = start + torch.linalg.pinv(jacobian) @ (task.targets - jacobian @ start)
    return relative(equilibrium(RANGE, 1.0, task, start), nearest)


def _projections() -> float:
    """T5: a converged warm start against projections onto the solutions of one angle each."""
    task = MemoryToy(4, 0.0, CPU, torch.Generator().manual_seed(0))
    loop, data = InnerLoop(task, GradientDescent(1.0), Warm()), task.sample(1, torch.Generator())
    found = projected = torch.zeros(8)
    for angle in torch.rand(50) * 2 * math.pi:
        found = loop.run({"inner": {"w": found}}, {"angle": angle}, data)["inner"]["w"]
        a = task.direction(angle)
        projected = projected + a * (a @ (task.target - projected))
    return relative(found, projected)


def _null_space() -> float:
    """T5: how far a warm start moves outside of the range of H where only labels change."""
    task, start = Fourier(), torch.randn(13)
    loop, data = InnerLoop(task, GradientDescent(STEP), Warm()), task.sample(7, torch.Generator())
    w = start
    for labels in torch.randn(20, 13):
        w = loop.run({"inner": {"w": w}}, {"labels": labels}, data)["inner"]["w"]
    return relative(task.projector @ (w - start), w - start)


def _turning() -> Iterator[tuple[str, float]]:
    """T6: where the range of H turns, what unrolling and the pseudo-inverse find."""
    task = MemoryToy(4, 0.0, CPU, torch.Generator().manual_seed(0))
    loop, data = InnerLoop(task, GradientDescent(1.0), Cold()), task.sample(1, torch.Generator())
    angle, tiny = torch.tensor(2.0), 1e-5
    truth = (task.retrained(angle + tiny) - task.retrained(angle - tiny)) / (2 * tiny)
    outer = {"angle": angle}
    for name, method in (("unrolled", UNROLLED), ("pseudo-inverse", implicit(RANGE))):
        carry: Any = method.init(outer, loop.fresh(outer, data))
        found = method.estimate(loop, outer, data, carry).grad["angle"]
        yield f"turning, {name}", float(found / truth)


def _fixed_point(solver: LinearSolver, lr: float) -> float:
    """T7: where outer descent from 0 ends, against u = A (J A)^-1 t."""
    task = Fourier()
    inverse = torch.stack([_solved(solver, task, e) for e in torch.eye(13)])
    a, jacobian = task.features @ inverse.T @ task.original.T, task.original @ task.best_response
    truth = a @ torch.linalg.solve(jacobian @ a, task.targets)
    return relative(equilibrium(solver, lr, task), truth)


def _least_inner() -> float:
    """T7: the inner parameters that the identity selects, against those of least norm."""
    task = Fourier()
    least = torch.linalg.pinv(task.original @ task.projector) @ task.targets
    return relative(task.solved(equilibrium(Identity(), 0.38, task))["w"], least)


def filters() -> pd.DataFrame:
    """What the approximations make of an eigenvalue, in units of the step size."""
    values = torch.cat([torch.zeros(1), torch.logspace(-4, 0, 60)]) / STEP
    columns = {"eigenvalue": values * STEP}
    for terms in SHOWN:
        columns[f"Neumann {terms}"] = response(Neumann(terms, STEP), values) / STEP
        damped = Exact(1 / (STEP * terms), rtol=None)
        columns[f"damped 1/{terms}"] = response(damped, values) / STEP
    columns["identity"] = response(Identity(), values)
    columns["pseudo-inverse"] = response(Exact(0.0, rtol=1e-9), values) / STEP
    return pd.DataFrame({name: column.numpy() for name, column in columns.items()})


def inverses() -> pd.DataFrame:
    """Relative errors of approximate inverses on the range of H, against products with H."""
    task = Fourier()
    rhs = task.hessian @ torch.randn(13)
    truth = torch.linalg.pinv(task.hessian, rtol=1e-10) @ rhs
    found = []
    for products in range(1, 21):
        row: dict[str, float] = {"products": products}
        for name, solver in (
            ("CG", ConjugateGradient(products, 0.0)),
            ("Neumann", Neumann(products, STEP)),
        ):
            row[name] = relative(_solved(solver, task, rhs), truth)
        if products <= 13:
            row["Nystrom"] = _nystrom(task, products, rhs, truth)
        found.append(row)
    return pd.DataFrame(found)


def _nystrom(task: Fourier, rank: int, rhs: Tensor, truth: Tensor) -> float:
    """The median over 20 draws of columns."""
    errors = []
    for seed in range(20):
        solver = Nystrom(rank, damping=0.1)
        drawn = solver.given(solver.draw(torch.Generator().manual_seed(seed)))
        errors.append(relative(_solved(drawn, task, rhs), truth))
    return float(torch.tensor(errors).median())


def _solved(solver: LinearSolver, task: Fourier, rhs: Tensor) -> Tensor:
    return solver.solve(lambda v: task.hessian @ v, rhs, torch.zeros(13)).solution


def rows(results: Results) -> list[Row]:
    def value(statement: str) -> float:
        return results.cell("statements", statement, "value")

    ratios = [
        Row(
            f"T1: {terms} terms / damping by λ_max / {terms}, largest ratio over the spectrum",
            near(largest, 0.005),
            DERIVED,
            value(f"ratio {terms}"),
        )
        for terms, largest in TERMS.items()
    ]
    zeros = [
        ("T1: damped inverse against the response of a proximal problem", "proximal", 1e-10),
        ("T2: K steps unrolled against K Neumann terms", "unrolled", 1e-10),
        ("T3: limit of inner descent against the projection of w₀", "nearest inner", 1e-9),
        ("T4: limit of outer descent against the u nearest to u₀", "nearest outer", 1e-9),
        ("T5: converged warm start against successive projections", "projections", 1e-10),
        ("T5: movement outside of the range of H, labels learned", "null space", 1e-10),
        ("T7: u = A (JA)⁻¹ t, pseudo-inverse", "fixed point, pseudo-inverse", 1e-9),
        ("T7: u = A (JA)⁻¹ t, 10 Neumann terms", "fixed point, 10 terms", 1e-9),
        ("T7: u = A (JA)⁻¹ t, identity", "fixed point, identity", 1e-9),
        ("T7: w of the identity against the w of least norm", "least inner", 1e-9),
    ]
    return [
        *ratios,
        *(
            Row(f"{text}, relative gap", below(b, "0"), THEORY, value(key))
            for text, key, b in zeros
        ),
        Row(
            "T6: unrolled from w₀ / true slope, where S(u) turns",
            near(1, 1e-8),
            THEORY,
            value("turning, unrolled"),
        ),
        Row(
            "T6: pseudo-inverse / true slope, where S(u) turns",
            near(0, 1e-10),
            THEORY,
            value("turning, pseudo-inverse"),
        ),
        Row(
            "CG on the range of H, of rank 12, relative error after 14 products",
            below(1e-8, "0"),
            THEORY,
            results.cell("inverses", 14, "CG"),
        ),
        Row(
            "Neumann series on the same, after 14 products",
            above(0.1),
            THEORY,
            results.cell("inverses", 14, "Neumann"),
        ),
    ]


def spectra(results: Results, figure: Any) -> None:
    left, right = figure.subplots(1, 2)
    table = results.table("filters").iloc[1:]  # without the eigenvalue 0, on a logarithmic axis
    for number, terms in enumerate(SHOWN):
        color = f"C{number}"
        left.loglog(table.index, table[f"Neumann {terms}"], color=color, label=f"Neumann {terms}")
        label = f"damped, λ_max / {terms}"
        left.loglog(table.index, table[f"damped 1/{terms}"], "--", color=color, label=label)
    left.loglog(table.index, table["pseudo-inverse"], "k:", label="exact")
    left.set(xlabel="eigenvalue / λ_max", ylabel="filter · λ_max", ylim=(0.3, 1e4))
    legend(left)
    errors = results.table("inverses")
    for name in errors:
        right.semilogy(errors.index, errors[name], ".-", label=name)
    right.set(xlabel="products with H (Nystrom: rank)", ylabel="relative error of H⁺v")
    legend(right)


ITEM = Item(
    order=3,
    title="Statements on implicit bias, T1 to T7",
    about="Numeric experiments in float64, on a least-squares problem with a singular Hessian of "
    "rank 12 and on a hyperplane that turns (the problems of the next two items). `filters` "
    "of a solver are what it returns for a diagonal system.",
    open="The theorems of the paper were not available in print; the statements are derived from "
    "its definitions. T1 is an equivalence in regime and not in digits: the ratio lies in "
    "[1, 2].",
    runs=(),
    rows=rows,
    figures=(
        Figure(
            "implicit_bias",
            "Left: the response of each approximate inverse to an eigenvalue, λ_max = "
            f"{LARGEST:.1f}. Right: error of approximate inverses on the range of H as products "
            "grow; Nystrom with damping 0.1, median of 20 draws of columns.",
            spectra,
        ),
    ),
    measure=measure,
)
