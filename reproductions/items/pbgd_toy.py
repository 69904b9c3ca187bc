"""The numerical example of PBGD, and other penalty methods on it."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from bilevel_cli.core import autodiff
from bilevel_cli.tasks.examples.pbgd_toy import PbgdToy
from reproductions.figure import legend
from reproductions.fourier import CPU
from reproductions.item import DERIVED, THEORY, Figure, Item, Row, Run, below, near
from reproductions.results import Results

STARTS = {"0.5": "[0.5,-0.5]", "1.5": "[1.5,-1.5]", "2.7": "[2.7,-2.7]"}
METHODS = ("pbgd", "g_pbgd", "f2sa", "meha", "bome", "reverse")
MINIMA = {0.3824: 0.4427, 1.2151: 0.1999, 2.8296: 1.2435}
MULTIPLIERS = (10, 40)
CONSTANT = "method=pbgd method.gamma.steps=0 inner_steps=5 solver.lr=0.15 outer_steps=600"


def measure(folder: Path) -> None:
    """Writes landscape.csv, F(x, -x), and slope.csv, of F in x at (0.3, -0.3)."""
    task = PbgdToy([0.3, -0.3], CPU)
    x = torch.linspace(0, 3, 30001)
    value = task.outer_loss({"y": -x}, {"x": x}, {})
    slope = autodiff.grad(lambda outer: task.outer_loss({"y": task.y}, outer, {}))
    found = float(slope({"x": task.x})["x"])
    landscape = pd.DataFrame({"x": x.numpy(), "value": value.numpy()})
    landscape.iloc[::50].to_csv(folder / "landscape.csv", index=False)
    inside = landscape[np.r_[False, np.diff(np.sign(np.diff(landscape["value"]))) > 0, False]]
    pd.DataFrame({"number": range(len(inside)), **inside.to_dict("list")}).to_csv(
        folder / "minima.csv", index=False
    )
    pd.DataFrame({"at": ["(0.3, -0.3)"], "slope": [found]}).to_csv(
        folder / "slope.csv", index=False
    )


def rows(results: Results) -> list[Row]:
    found = []
    for number, (x, value) in enumerate(MINIMA.items()):
        text = f"local minimum {number + 1} of F(x, -x)"
        ours = results.cell("minima", number, "x")
        found.append(Row(f"{text}: x", near(x, 1e-4), DERIVED, ours))
        ours = results.cell("minima", number, "value")
        found.append(Row(f"{text}: F", near(value, 1e-4), DERIVED, ours))
    slope = results.cell("slope", "(0.3, -0.3)", "slope")
    text = "dF/dx at (0.3, -0.3); the released code has -0.90936, a misplaced parenthesis"
    found.append(Row(text, near(-1.3550902, 1e-6), DERIVED, slope))
    penalties = "a penalty of finite weight, or a step size that does not fall, leaves a gap"
    for method in METHODS:
        for start in STARTS:
            run = f"{method} {start}"
            distance = results.last(run, "distance")
            text = f"{run}: distance of x to the nearest local minimum"
            found.append(
                Row(
                    text,
                    below(0.1, "O(1/gamma), gamma = 10"),
                    "numerical example",
                    distance,
                    penalties,
                )
            )
            gap = results.last(run, "gap")
            text = f"{run}: gap of y, absolute value of x + y"
            found.append(
                Row(text, below(0.1, "O(1/gamma), gamma = 10"), "numerical example", gap, penalties)
            )
    for score in ("gap", "distance"):
        ends = [results.last(f"gamma {gamma}", score) for gamma in MULTIPLIERS]
        text = f"V-PBGD, {score} at gamma = 10 / at gamma = 40: falls as 1/gamma"
        found.append(Row(text, near(4, 0.4), THEORY, ends[0] / ends[1]))
    return found


def paths(results: Results, figure: Any) -> None:
    left, middle, right = figure.subplots(1, 3)
    landscape = results.table("landscape")
    if len(landscape):
        left.plot(landscape.index, landscape["value"], "k-", lw=0.7)
    for number, method in enumerate(METHODS):
        for run, scores in results.present([f"{method} {start}" for start in STARTS]):
            x, value = scores["x"].iloc[-1], scores["value"].iloc[-1]
            name = method if run.endswith("0.5") else None
            left.plot(x, value, "o^v<>s"[number], ms=4, mfc="none", color=f"C{number}", label=name)
            middle.plot(scores.index, scores["x"], color=f"C{number}", lw=0.7)
            if run.endswith("1.5"):
                right.semilogy(scores.index[1:], scores["gap"].iloc[1:], color=f"C{number}")
    left.set(xlabel="x", ylabel="F(x, -x)")
    legend(left)
    middle.set(xlabel="outer step", ylabel="x")
    right.set(xlabel="outer step", ylabel="|x + y|", ylim=(1e-8, 1))


ITEM = Item(
    order=7,
    title="The numerical example of PBGD (Shen & Chen, 2023, arXiv:2302.05185)",
    about="y is to be -x, by a follower that is not convex but satisfies the Polyak-Łojasiewicz "
    "inequality; F(x, -x) has three local minima. Penalty methods ramp to gamma = 10. At a "
    "constant gamma the error is O(1/gamma), as the two last rows measure.",
    open="The paper draws the last iterates of 1000 random starts as a cloud around the minima and "
    "prints no numbers. Here three starts are followed.",
    runs=(
        *(
            Run(
                f"{method} {start}",
                f"task=pbgd_toy method={method} task.start={point} eval_every=10",
            )
            for method in METHODS
            for start, point in STARTS.items()
        ),
        *(
            Run(
                f"gamma {gamma}",
                f"task=pbgd_toy {CONSTANT} task.start=[1.5,-1.5] eval_every=20 "
                f"method.gamma.initial={gamma} method.gamma.final={gamma}",
            )
            for gamma in MULTIPLIERS
        ),
    ),
    rows=rows,
    figures=(
        Figure(
            "pbgd_toy",
            "Left: F(x, -x) and where the methods end from three starts. Middle: x along the runs. "
            "Right: the gap, from x = 1.5. Colours as on the left.",
            paths,
        ),
    ),
    measure=measure,
)
