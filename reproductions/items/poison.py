"""TGDA: what learned poisons cost a classifier, against label flips and random points."""

from itertools import product
from typing import Any

import numpy as np

from bilevel_cli.report.compare.estimates import student
from reproductions.figure import legend
from reproductions.item import Figure, Item, Row, Run, Table, above
from reproductions.results import Results, spread

SEEDS = range(5)
SHARES = (0.03, 0.1)
COMMON = "task=poison data=digits task.clip=[0,1] task.follower_steps=500 retrain=500 eval_every=50"
KINDS = {
    "cg": "method=cg outer_steps=50",
    "reverse": "method=reverse outer_steps=50",
    "random": "method=none task.attack.begin=random outer_steps=1 eval_every=1",
}
LEARNED = ("cg", "reverse")
SOURCE = "expected of a learned attack"


def name(kind: str, share: float, seed: int) -> str:
    return f"{kind} {share} {seed}"


def scored(results: Results, kind: str, share: float, column: str) -> Any:
    """Of all seeds, in per cent: of a classifier that is trained anew, at the end of the runs.

    Label flips are where the learned poisons begin: step 0 of those runs.
    """
    found = []
    for seed in SEEDS:
        run = name("cg" if kind == "flips" else kind, share, seed)
        there = f"retrained_{column}" in results.scores(run)
        scores = results.scores(run)[f"retrained_{column}"] if there else [np.nan]
        found.append(float(np.asarray(scores)[0 if kind == "flips" else -1]))
    return 100 * np.array(found)


def rows(results: Results) -> list[Row]:
    found = []
    for share, kind in product(SHARES, LEARNED):
        drops = {k: scored(results, k, share, "drop") for k in (kind, "flips", "random")}
        for other in ("flips", "random"):
            found.append(
                Row(
                    f"{100 * share:g} %, {kind}: mean drop minus that of {other}, points",
                    above(0, "larger"),
                    SOURCE,
                    float((drops[kind] - drops[other]).mean()),
                )
            )
    return found


def table(results: Results) -> list[list[str]]:
    found = [["share", "poisons", "drop", "minus flips, 95 %", "drop, defended", "caught, %"]]
    for share, kind in product(SHARES, ("cg", "reverse", "flips", "random")):
        drop = scored(results, kind, share, "drop")
        gap = drop - scored(results, "flips", share, "drop")
        told = "-"
        if kind != "flips" and np.isfinite(gap).all():
            whole = student(gap.tolist())
            told = f"{whole.value:+.1f} [{whole.low:+.1f}, {whole.high:+.1f}]"
        clean = drop + scored(results, kind, share, "test_accuracy")
        left = clean - scored(results, kind, share, "defended_accuracy")
        caught = scored(results, kind, share, "caught")
        cells = [spread(drop), told, spread(left), spread(caught)]
        found.append([f"{100 * share:g} %", kind, *cells])
    return found


def dots(results: Results, figure: Any) -> None:
    panes = figure.subplots(1, len(SHARES), sharey=True)
    for pane, share in zip(panes, SHARES, strict=True):
        for place, kind in enumerate(("random", "flips", "cg", "reverse")):
            drops = scored(results, kind, share, "drop")
            pane.plot(place + np.linspace(-0.1, 0.1, len(drops)), drops, "o", ms=3, label=kind)
        pane.set(title=f"{100 * share:g} % poisons", xticks=[])
        legend(pane)
    panes[0].set(ylabel="points of test accuracy lost")


ITEM = Item(
    order=17,
    title="Indiscriminate poisoning: TGDA (Lu, Kamath & Yu, 2022, arXiv:2204.09092)",
    about="Softmax regression on 600 digits; 3 % or 10 % poisoned inputs in the box [0, 1] with "
    "wrong labels, learned by 50 outer steps on 600 clean digits that the attacker holds. What "
    "counts is a classifier trained anew for 500 steps, on 597 others. Flips are the same poisons "
    "before they are learned; random ones lie anywhere in the box.",
    open="The paper attacks MNIST and CIFAR-10 with networks that make poisons; here "
    "inputs are learned directly, and begin at label flips. Its drops of one to three points "
    "at 3 % are quoted from memory.",
    runs=tuple(
        Run(name(k, share, s), f"{COMMON} {words} task.share={share} seed={s}")
        for (k, words), share, s in product(KINDS.items(), SHARES, SEEDS)
    ),
    rows=rows,
    figures=(Figure("poison", "Points of test accuracy that each seed loses.", dots),),
    tables=(
        Table(
            "Points of test accuracy lost by a classifier trained anew: mean and standard "
            "deviation of five seeds; minus flips: paired, by Student's t; defended: after the "
            "share of largest losses was removed; caught: poisons among what was removed.",
            table,
        ),
    ),
)
