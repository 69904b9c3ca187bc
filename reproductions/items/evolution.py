"""How noisy evolution strategies are on long inner problems: PES and ES-Single."""

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from bilevel_cli.core import autodiff
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Batch, Problem, StepData
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.es_single import EsSingle
from bilevel_cli.methods.pes import Pes
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.starts.cold import Cold
from reproductions.figure import legend
from reproductions.item import THEORY, Expected, Figure, Item, Row, near
from reproductions.results import Results

WINDOWS = (1, 3, 11, 31)
DIM, STD, DRAWS = 4, 0.1, 40_000
METHODS = {"PES": Pes, "ES-Single": EsSingle}


def measure(folder: Path) -> None:
    """Writes variance.csv."""
    found = [
        {"windows": windows}
        | {name: variance(make(1, STD, windows), windows) for name, make in METHODS.items()}
        for windows in WINDOWS
    ]
    pd.DataFrame(found).to_csv(folder / "variance.csv", index=False)


class Alternating(Problem):
    """Forgets its past at once, and every window's loss is linear: +- sum(lambda)."""

    def init_inner(self, outer: Params, data: StepData) -> Params:
        return data.init

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return 0.5 * (inner["z"] - outer["lam"]).square().sum()

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return batch["sign"] * inner["z"].sum()


def variance(method: Pes, windows: int) -> float:
    """Of the gradient summed over the windows of a problem, all entries together, one pair."""
    loop = InnerLoop(Alternating(), GradientDescent(1.0), Cold())
    outer = {"lam": torch.zeros(DIM)}
    data = StepData({"z": torch.zeros(DIM)}, {"unused": torch.zeros(1)}, {})
    signs = torch.ones(windows)
    signs[1::2] = -1.0  # an odd number of windows, so that the sum is that of one

    def summed(noise: Tensor) -> Tensor:
        carry = method.init(outer, loop.fresh(outer, data))
        total = torch.zeros(DIM)
        for sign, eps in zip(signs, noise, strict=True):
            window = data._replace(outer={"sign": sign}, noise={"lam": eps[None]})
            found = method.estimate(loop, outer, window, carry)
            total, carry = total + found.grad["lam"], found.carry
        return total

    generator = torch.Generator().manual_seed(0)
    noise = method.std * torch.randn(DRAWS, windows, DIM, generator=generator)
    return float(autodiff.vmap(summed)(noise).var(0).sum())


def expected(windows: int) -> dict[str, float]:
    """By the moments of Gaussians, for gradients +- a of the windows in turn, |a|^2 = d."""
    return {
        "PES": DIM * (DIM * windows * (windows + 1) / 2 + windows),
        "ES-Single": DIM * (DIM + 1.0),
    }


def rows(results: Results) -> list[Row]:
    return [
        Row(
            f"{name}, {windows} windows: variance of their sum",
            within(value),
            THEORY,
            results.cell("variance", windows, name),
        )
        for windows in WINDOWS
        for name, value in expected(windows).items()
    ]


def within(value: float) -> Expected:
    """Six of its hundred parts: the sampling error is about one."""
    return near(value, 0.06 * value)


def lines(results: Results, figure: Any) -> None:
    pane = figure.subplots()
    table = results.table("variance")
    for name, color in (("PES", "C1"), ("ES-Single", "C0")):
        pane.loglog(WINDOWS, [expected(w)[name] for w in WINDOWS], ":", color=color)
        if len(table):
            pane.loglog(table.index, table[name], "o", ms=3, color=color, label=name)
    pane.set(xlabel="windows of an inner problem", ylabel="variance")
    legend(pane)


ITEM = Item(
    order=14,
    title="The variance of ES-Single and of PES (Vicol, Kolter & Swersky, 2023, arXiv:2304.11153)",
    about=f"An inner problem that is cut into windows, whose losses are + and - the same linear "
    f"function of {DIM} outer parameters in turn: nothing but the noise of the method is left. "
    f"{DRAWS} estimates of one antithetic pair each.",
    open="The paper's experiments on LSTMs and learned optimizers are not part of the project's "
    "tasks; influence balancing is (task=influence_balancing). Its statement is: the "
    "variance of ES-Single does not depend on the number of windows.",
    runs=(),
    rows=rows,
    figures=(Figure("evolution", "Variance of the summed gradient; dotted: theory.", lines),),
    measure=measure,
)
