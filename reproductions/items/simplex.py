"""Weights of a simplex under joint dynamics (Ivanova & Ablin, 2023)."""

from typing import Any

import numpy as np
import pandas as pd

from reproductions.figure import legend
from reproductions.item import Figure, Item, Row, Run, above, below
from reproductions.results import Results

SEEDS = range(5)
COMMON = (
    "task=reweight data=digits task/weights=simplex optimizer=mirror_descent optimizer.lr=100 "
    "retrain=1000"
)
KINDS = {
    "solved": f"{COMMON} method=reverse inner_steps=100 outer_steps=150",
    "joint": f"{COMMON} method=soba scheduler=constant outer_steps=3000 eval_every=200",
}
SOURCE = "Ivanova & Ablin (2023), in words"


def weights(results: Results, kind: str, seed: int) -> Any:
    """The weights a run ended with, largest first and of mean 1; empty if it was not run."""
    path = results.folder / f"{kind} {seed}" / "weights.csv"
    if not path.exists():
        return np.array([])
    found = np.sort(pd.read_csv(path)["weight"])[::-1]
    return found / found.mean()


def effective(found: Any) -> float:
    """The share of examples that weigh something: (sum w)^2 / (n sum w^2)."""
    return float(1 / np.mean(found**2)) if len(found) else float("nan")


def rows(results: Results) -> list[Row]:
    share = {k: np.array([effective(weights(results, k, s)) for s in SEEDS]) for k in KINDS}
    scores = {
        (kind, column): 100 * np.array([results.last(f"{kind} {s}", column) for s in SEEDS])
        for kind in KINDS
        for column in ("test_accuracy", "retrained_test_accuracy")
    }
    joint, alone = (scores["joint", c] for c in ("test_accuracy", "retrained_test_accuracy"))
    best = scores["solved", "retrained_test_accuracy"]
    return [
        Row(
            "joint: effective share of the examples, most of five seeds, %",
            below(15, "very sparse"),
            SOURCE,
            100 * float(share["joint"].max()),
        ),
        Row(
            "solved: the same, least of five seeds, %",
            above(15, "not so"),
            SOURCE,
            100 * float(share["solved"].min()),
        ),
        Row(
            "re-trained on the weights: points of solved above joint, least of five seeds",
            above(0, "sub-optimal"),
            SOURCE,
            float((best - alone).min()),
        ),
        Row(
            "joint: points of the joint classifier above a re-trained one, least of five seeds",
            above(0, "> 0"),
            "the memory of a warm start",
            float((joint - alone).min()),
        ),
    ]


def pictures(results: Results, figure: Any) -> None:
    left, right = figure.subplots(1, 2)
    for kind, color in (("solved", "C1"), ("joint", "C0")):
        for seed in SEEDS:
            found = weights(results, kind, seed)
            label = kind if seed == 0 else None
            left.plot(found + 1e-6, color=color, lw=0.7, label=label)
    left.set(xlabel="examples, by weight", ylabel="weight / mean", yscale="log", ylim=(1e-4, None))
    legend(left)
    for column, style in (("test_accuracy", "-"), ("retrained_test_accuracy", ":")):
        for seed in SEEDS:
            for _, scores in results.present([f"joint {seed}"]):
                names = {"test_accuracy": "joint", "retrained_test_accuracy": "re-trained"}
                label = names[column] if seed == 0 else None
                right.plot(scores.index, scores[column], style, color="C0", lw=0.7, label=label)
    right.set(xlabel="outer step of the joint dynamics", ylabel="test accuracy")
    legend(right)


ITEM = Item(
    order=13,
    title="Weights of a simplex collapse under joint dynamics (Ivanova & Ablin, 2023)",
    about="600 digits, half of them with a wrong label, softmax regression; weights on a simplex "
    "by mirror descent. `joint` moves the classifier, the adjoint and the weights once in each of "
    "3000 steps (SOBA); `solved` takes 100 inner steps from zero in each of 150.",
    open="The paper's data and settings are its own: what is compared is what it says of the "
    "weights, with bounds of 15 % that were put between the two kinds on seed 0. A classifier "
    "trained along the way does not show the collapse: its accuracy is that of all weights so far.",
    runs=tuple(Run(f"{k} {s}", f"{words} seed={s}") for k, words in KINDS.items() for s in SEEDS),
    rows=rows,
    figures=(
        Figure(
            "simplex",
            "Left: the weights at the end, of five seeds. Right: accuracy along the joint run, and "
            "after re-training on the weights of the moment.",
            pictures,
        ),
    ),
)
