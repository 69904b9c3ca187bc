"""More inner steps at test time than in training (Ramzi, Ablin, Peyré & Moreau, 2023)."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reproductions.figure import legend
from reproductions.item import THEORY, Figure, Item, Row, Run, Table, above, near
from reproductions.results import Results, spread

SEEDS = range(5)
TRAINED, LAST = 5, 100  # inner steps of training, and the most at test time
COUNTS = (0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, LAST)
COMMON = (
    "task=sinusoid task.episodes=4 task.eval_episodes=200 optimizer.lr=0.002 outer_steps=500 "
    f"eval_every=500 log_every=100 inner_steps={TRAINED} "
    f"test_steps=[{','.join(map(str, COUNTS))}]"
)
METHODS = {"maml": "method=reverse", "imaml": "method=imaml", "iaptt": "method=iaptt"}
SOURCE = "Ramzi et al. (2023), in words"

# The affine problem: f = z'Az/2 - z'(B lambda + b), F = |Cz - y|^2 / 2.
PROBLEMS, INNER, LR = 200, 20, 0.1
KINDS = {"rich": (10, 5), "poor": (1, 5)}  # dimensions of lambda, and of y
AFFINE_COUNTS = range(26)


def measure(folder: Path) -> None:
    """Writes affine.csv: F after each number of steps, of each problem and kind."""
    found = []
    for kind, (outer, targets) in KINDS.items():
        for seed in range(PROBLEMS):
            losses = affine(seed, outer, targets)
            found += [
                {"kind": kind, "seed": seed, "steps": n, "loss": loss}
                for n, loss in zip(AFFINE_COUNTS, losses, strict=True)
            ]
    pd.DataFrame(found).to_csv(folder / "affine.csv")


def affine(seed: int, outer: int, targets: int) -> list[float]:
    """F of z_n from zero, for each number of steps, at the lambda of least F after TRAINED ones."""
    random = np.random.default_rng(seed)
    vectors = np.linalg.qr(random.standard_normal((INNER, INNER)))[0]
    a = vectors * np.linspace(1.0, 5.0, INNER) @ vectors.T
    b, offset = random.standard_normal((INNER, outer)), random.standard_normal(INNER)
    c, y = random.standard_normal((targets, INNER)), random.standard_normal(targets)

    def readout(n: int) -> Any:  # C z_n = readout(n) (B lambda + b)
        power = np.linalg.matrix_power(np.eye(INNER) - LR * a, n)
        return c @ np.linalg.solve(a, np.eye(INNER) - power)

    seen = readout(TRAINED)
    lam = np.linalg.lstsq(seen @ b, y - seen @ offset, rcond=None)[0]
    errors = (readout(n) @ (b @ lam + offset) - y for n in AFFINE_COUNTS)
    return [0.5 * float(error @ error) for error in errors]


def changes(results: Results, kind: str) -> Any:
    """F(n) - F(TRAINED) of each problem, of shape [problems, steps]; empty if it was not run."""
    table = results.table("affine")
    if not len(table):
        return np.empty((0, len(AFFINE_COUNTS)))
    losses = table[table["kind"] == kind]["loss"].to_numpy().reshape(PROBLEMS, -1)
    return losses - losses[:, [TRAINED]]


def errors(results: Results, method: str, count: int) -> Any:
    """The error after so many steps at test time, of each seed."""
    return np.array([results.last(f"{method} {s}", f"test_steps_{count}_mse") for s in SEEDS])


def gain(results: Results, method: str) -> Any:
    """The part of the error after TRAINED steps that LAST steps take away, of each seed."""
    return 1 - errors(results, method, LAST) / errors(results, method, TRAINED)


def rows(results: Results) -> list[Row]:
    found = []
    rich, poor = changes(results, "rich"), changes(results, "poor")
    least = 100 * float(np.mean(rich.argmin(1) == TRAINED)) if len(rich) else float("nan")
    gains = 100 * float(np.mean(poor.min(1) < 0)) if len(poor) else float("nan")
    found += [
        Row(
            f"affine, {KINDS['rich'][0]} outer parameters, {KINDS['rich'][1]} targets: problems of "
            f"{PROBLEMS} with the least F at the {TRAINED} steps of training, %",
            near(100, 0.25),
            f"{THEORY}; {SOURCE}",
            least,
        ),
        Row(
            f"affine, {KINDS['poor'][0]} outer parameter, {KINDS['poor'][1]} targets: problems "
            "with a lower F at other steps, %",
            above(50, "can be"),
            SOURCE,
            gains,
        ),
        Row(
            "the same, with a lower F at more steps than in training, %",
            above(0, "can be"),
            SOURCE,
            100 * float(np.mean(poor[:, TRAINED:].min(1) < 0)) if len(poor) else float("nan"),
        ),
    ]
    for method in METHODS:
        own = gain(results, method)
        expected = above(0, "gains") if method == "imaml" else above(0, "not said")
        found.append(
            Row(
                f"sinusoid, {method}: part of the error at {TRAINED} steps that {LAST} take away, "
                f"least of {len(SEEDS)} seeds, %",
                expected,
                SOURCE if method == "imaml" else "expected here",
                100 * float(own.min()),
            )
        )
    for method in ("maml", "iaptt"):
        ahead = gain(results, "imaml") - gain(results, method)
        found.append(
            Row(
                f"sinusoid: points by which imaml gains more than {method}, least of "
                f"{len(SEEDS)} seeds (paired)",
                above(0, "> 0"),
                "expected here",
                100 * float(ahead.min()),
                "IAPTT gains more on one seed of five" if method == "iaptt" else "",
            )
        )
    return found


def table(results: Results) -> list[list[str]]:
    """The error after each number of steps."""
    shown = (0, 1, TRAINED, 10, 20, 50, LAST)
    return [
        ["error after", *map(str, shown)],
        *(
            [method, *(spread(100 * errors(results, method, n)) for n in shown)]
            for method in METHODS
        ),
    ]


def pictures(results: Results, figure: Any) -> None:
    left, right = figure.subplots(1, 2)
    x = np.log1p(COUNTS)
    for number, method in enumerate(METHODS):
        every = np.stack([errors(results, method, n) for n in COUNTS])
        if np.isfinite(every).any():
            left.plot(x, every.mean(1), "o-", ms=2, color=f"C{number}", label=method)
            left.fill_between(x, every.min(1), every.max(1), color=f"C{number}", alpha=0.15, lw=0)
    left.axvline(np.log1p(TRAINED), color="gray", ls=":")
    shown = (0, 1, 2, TRAINED, 10, 20, 50, LAST)
    left.set_xticks(np.log1p(shown), list(map(str, shown)))
    left.set(xlabel="inner steps at test time (dotted: in training)", ylabel="test error")
    legend(left)
    for number, (kind, (outer, targets)) in enumerate(KINDS.items()):
        every = changes(results, kind)
        if len(every):
            middle, low, high = np.quantile(every, (0.5, 0.1, 0.9), axis=0)
            color, label = f"C{number + 3}", f"{outer} outer parameters, {targets} targets"
            right.plot(AFFINE_COUNTS, middle, color=color, label=label)
            right.fill_between(AFFINE_COUNTS, low, high, color=color, alpha=0.15, lw=0)
    right.axvline(TRAINED, color="gray", ls=":")
    right.axhline(0, color="gray", lw=0.5)
    right.set(xlabel="inner steps at test time", ylabel=f"F(n) - F({TRAINED})", ylim=(-1, 3))
    legend(right)


ITEM = Item(
    order=23,
    title="Test like you train: more inner steps at test time (Ramzi et al., 2023)",
    about=f"Left: `task=sinusoid` with {TRAINED} inner steps in training, 500 outer steps, five "
    f"seeds, scored after up to {LAST} (`test_steps`). Right: 200 affine inner problems, whose "
    f"outer parameters have the least F after {TRAINED} steps, in closed form and float64.",
    open="The full text was not at hand: the statements are the abstract's, and iMAML is not "
    "compared with MAML there. Adaptation at test time is plain gradient descent, for iMAML too, "
    "whose training is tied to its start and met inner Hessians that are not positive definite. It "
    "gains most because it begins worst: at every number of steps its mean error is above MAML's, "
    "which gains two fifths or more as well.",
    runs=tuple(
        Run(f"{m} {s}", f"{COMMON} {words} seed={s}") for m, words in METHODS.items() for s in SEEDS
    ),
    rows=rows,
    tables=(Table("Test error times 100 after so many inner steps, mean ± deviation.", table),),
    figures=(
        Figure(
            "steps_at_test",
            "Left: test error by steps of adaptation, mean and range of five seeds. Right: "
            "the change of F against the steps of training, median and 80 % of 200 problems.",
            pictures,
        ),
    ),
    measure=measure,
)
