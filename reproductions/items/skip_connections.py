"""What fills a cell in a long architecture search: DARTS of first and of second order."""

import math
from typing import Any

import numpy as np
import pandas as pd

from reproductions.figure import legend
from reproductions.item import Figure, Item, Row, Run, Table, above, below
from reproductions.results import Results

SEEDS = range(3)
SEARCH = (
    "task=architecture task.cell.operations=[skip,conv] task.batch_size=32 "
    "task.outer_batch_size=32 optimizer.lr=0.02 outer_steps=1200 eval_every=100 log_every=100"
)
KINDS = {
    "first order": "method=direct solver.lr=0.1",
    "second order": "method=darts solver.lr=0.1",
    "first order, decay": "method=direct solver=weight_decay solver@solver.base=momentum "
    "solver.base.lr=0.1 solver.weight_decay=0.01",
}
ZELA = "Zela et al. (2020)"


def ends(results: Results, kind: str, column: str) -> list[float]:
    """A score at the end of the runs of a kind, by seeds; NaN where one is missing."""
    return [results.last(f"{kind} {seed}", column) for seed in SEEDS]


def growth(results: Results, kind: str) -> list[float]:
    """The mean weight of skip at the end over its least one along the search, by seeds."""
    found = []
    for end, seed in zip(ends(results, kind, "weight_skip"), SEEDS, strict=True):
        scores = results.scores(f"{kind} {seed}")
        found.append(end / float(scores["weight_skip"].min()) if len(scores) else math.nan)
    return found


def gaps(results: Results, column: str, kind: str, other: str) -> list[float]:
    """A score of one kind less that of another one, by seeds."""
    pairs = zip(ends(results, kind, column), ends(results, other, column), strict=True)
    return [one - two for one, two in pairs]


def rows(results: Results) -> list[Row]:
    first, second, decay = KINDS
    text = "the mean weight of skip at the end over its least along the search, the lowest seed"
    found = [
        Row(f"{kind}: {text}", above(1), ZELA, min(growth(results, kind)))
        for kind in (first, second)
    ]
    shares = gaps(results, "share_skip", first, second)
    reason = "both decide for skip on as many edges, in 1200 steps and one small cell"
    text = "share of skip among the edges kept, first less second order, mean of the seeds"
    found.append(Row(text, above(0), "expected here", float(np.mean(shares)), reason))
    for column, what in (("share_skip", "share of skip"), ("weight_skip", "mean weight of skip")):
        worst = max(gaps(results, column, decay, first))
        text = f"{what}, with weight decay less without, first order, the worst seed"
        found.append(Row(text, below(0), ZELA, worst))
    lost = gaps(results, "decided_accuracy", first, decay)
    text = "accuracy of the decided architecture with the weights of the mixture, without weight "
    found.append(Row(f"{text}decay less with, the worst seed", below(0), ZELA, max(lost)))
    return found


def cells(results: Results) -> list[list[str]]:
    columns = {
        "share of skip": "share_skip",
        "mean weight of skip": "weight_skip",
        "accuracy of the mixture": "test_accuracy",
        "of the decided architecture": "decided_accuracy",
    }
    lines = [["search", *columns]]
    for kind in KINDS:
        every = [ends(results, kind, column) for column in columns.values()]
        lines.append([kind, *(", ".join(f"{x:.2f}" for x in values) for values in every)])
    return lines


def curves(results: Results, figure: Any) -> None:
    panes = figure.subplots(1, 3)
    for pane, column in zip(panes, ("weight_skip", "share_skip", "decided_accuracy"), strict=True):
        for color, kind in enumerate(KINDS):
            runs = [scores for _, scores in results.present([f"{kind} {s}" for s in SEEDS])]
            for scores in runs:
                pane.plot(scores.index, scores[column], color=f"C{color}", lw=0.4)
            if runs:
                mean = pd.concat([scores[column] for scores in runs], axis=1).mean(axis=1)
                pane.plot(mean.index, mean, color=f"C{color}", label=kind)
        pane.set(xlabel="outer step", ylabel=column.replace("_", " "))
    legend(panes[0])


ITEM = Item(
    order=21,
    title="Skip connections in a long architecture search (Liu et al., 2019, arXiv:1806.09055; "
    "Zela et al., 2020, arXiv:1909.09656)",
    about="A cell of six edges on 8x8 digits, each with zero, skip or a 3x3 convolution: a search "
    "space like S2 of Zela et al. At first the convolutions win. When the network fits its "
    "examples, the weight of skip grows again, and the decided architecture takes skip on one or "
    "two of five edges. With weight decay of 0.01 in the inner problem it does not. Three seeds, "
    "paired.",
    open="The papers' cells on CIFAR-10 are not searched. That a search of second order resists is "
    "not seen here, and no cell is full of skips after 1200 steps: at most 3 of 5 edges. Decided "
    "architectures are scored with the weights of the mixture, and not trained anew (`retrain=N` "
    "does that).",
    runs=tuple(
        Run(f"{kind} {seed}", f"{SEARCH} {options} seed={seed}")
        for kind, options in KINDS.items()
        for seed in SEEDS
    ),
    rows=rows,
    figures=(Figure("skip_connections", "Thin: each seed; thick: the mean of three.", curves),),
    tables=(Table("At the end of the search, for seeds 0, 1 and 2.", cells),),
)
