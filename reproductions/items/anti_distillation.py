"""Anti-distillation: the hypergradient chooses among labels that all fit."""

import math
from itertools import pairwise
from typing import Any

import torch

from reproductions.figure import legend
from reproductions.item import DERIVED, Figure, Item, Row, Run, above, below, near
from reproductions.results import Results

TASK = "task=anti_distillation device.dtype=float64 metrics=[norms] outer_steps=100 log_every=1"
DAMPING = "method=exact method.linear_solver.damping"
# Overrides, |u| and |w|.
THREE: dict[str, tuple[str, float, float]] = {
    "pseudo-inverse": ("method=pseudo_inverse", 1.4628, 2.1175),
    "Neumann 1000": ("method=neumann method.linear_solver.max_steps=1000", 1.4628, 2.1175),
    "Neumann 100": ("method=neumann method.linear_solver.max_steps=100", 1.4671, 1.9906),
    "damped 100": (f"{DAMPING}=0.132178", 1.4848, 1.8323),
    "Neumann 10": ("method=neumann method.linear_solver.max_steps=10", 1.7440, 1.2877),
    "damped 10": (f"{DAMPING}=1.32178", 1.7246, 1.2987),
    "damped 1": (f"{DAMPING}=13.2178 optimizer.lr=5", 2.1780, 1.0936),
    "Neumann 1": (
        "method=neumann method.linear_solver.max_steps=1 optimizer.lr=5",
        2.4198,
        1.0767,
    ),
    "identity": ("method=identity optimizer.lr=0.3", 2.4198, 1.0767),
}
ONE_POINT = "task.inputs=[0.3] task.targets=[1.0]"
ONE = {
    "pseudo-inverse": (1.0149, 1.3420),
    "Neumann 10": (1.1893, 0.8353),
    "damped 10": (1.1863, 0.8346),
    "identity": (1.7405, 0.6348),
}
NEUMANN = [f"Neumann {terms}" for terms in (1, 10, 100, 1000)]
DAMPED = [f"damped {part}" for part in (1, 10, 100)]


def rows(results: Results) -> list[Row]:
    found = []
    tables: list[tuple[str, dict[str, tuple[float, float]]]] = [
        ("", {name: (u, w) for name, (_, u, w) in THREE.items()}),
        (", one example", ONE),
    ]
    for suffix, table in tables:
        for name, norms in table.items():
            for letter, column, norm in zip("uw", ("outer_norm", "inner_norm"), norms, strict=True):
                ours = results.last(name + suffix, column)
                text = f"{name}{suffix}, norm of {letter}"
                found.append(Row(text, near(norm, 1e-3), DERIVED, ours))
    for name in (*NEUMANN, *DAMPED[::-1]):
        found.append(Row(f"{name}, F", below(1e-8, "0"), DERIVED, results.last(name, "value")))
    for family in (NEUMANN, DAMPED):
        for column, sign, text in (
            ("outer_norm", -1, "least fall of |u|"),
            ("inner_norm", 1, "least rise of |w|"),
        ):
            ends = [results.last(name, column) for name in family]
            step = min(sign * (after - before) for before, after in pairwise(ends))
            label = f"{family[0]} to {family[-1]}: {text} from one to the next"
            found.append(Row(label, above(0), DERIVED, step))
    u = [results.last(name, "outer_norm") for name in ("Neumann 10", "damped 10")]
    found.append(Row("Neumann 10 / damped 10, ratio of |u|", near(1, 0.015), DERIVED, u[0] / u[1]))
    return found


def labels(results: Results, figure: Any) -> None:
    left, middle, right = figure.subplots(1, 3)
    grid = torch.linspace(-1, 1, 13)
    for name in ("pseudo-inverse", "Neumann 100", "Neumann 10", "identity"):
        path = results.folder / name / "outer.pt"
        if path.exists():
            learned = torch.load(path, weights_only=True)["labels"]
            left.plot(grid, learned, ".-", label=name)
    left.plot([-0.55, 0.1, 0.7], [1, -1, 0.5], "kx", label="original")
    left.set(xlabel="x", ylabel="learned label u", ylim=(-1.1, 2.2))
    legend(left, loc="upper center", ncols=2)
    for name in THREE:
        train = results.train(name)
        if len(train):
            middle.plot(train.index, train["outer_norm"], label=name)
    middle.set(xlabel="outer step", ylabel="|u|", xscale="log", ylim=(0, 5))
    legend(middle, loc="upper center", ncols=2)
    for family, marker in ((NEUMANN, "o-"), (DAMPED, "s--")):
        u, w = ([results.last(n, c) for n in family] for c in ("outer_norm", "inner_norm"))
        right.plot(u, w, marker, ms=3, label=family[0].split()[0])
        for name, a, b in zip(family, u, w, strict=True):
            if math.isfinite(a):
                right.annotate(
                    name.split()[1], (a, b), fontsize=5, xytext=(2, 3), textcoords=OFFSET
                )
    right.set(xlabel="|u|", ylabel="|w|")
    legend(right)


OFFSET = "offset points"

ITEM = Item(
    order=4,
    title="Anti-distillation: which hypergradient (E3)",
    about="13 labels u of a grid, such that a Fourier series w fitted to them meets three (or "
    "one) original examples. All hypergradients reach F = 0, at different u. The inner "
    "problem is solved on the way, by a warm start of 20 steps at each outer step.",
    open="The constants of the published figure are not printed; these are a reconstruction, "
    "whose norms were recomputed from closed forms. So what is compared is the selection and "
    "its order, and not the curves of the paper.",
    runs=(
        *(Run(name, f"{TASK} {overrides}") for name, (overrides, _, _) in THREE.items()),
        *(Run(f"{name}, one example", f"{TASK} {THREE[name][0]} {ONE_POINT}") for name in ONE),
    ),
    rows=rows,
    figures=(
        Figure(
            "anti_distillation",
            "Left: learned labels. Middle: |u| along the runs. Right: the norms at the end; "
            "numbers are terms of the series, and parts of the largest eigenvalue that damp.",
            labels,
        ),
    ),
)
