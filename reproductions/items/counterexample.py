"""The follower with many best responses: who chooses the leader's, and who ends at 1/4."""

from typing import Any

from reproductions.figure import legend
from reproductions.item import Figure, Item, Row, Run, below, near
from reproductions.results import Results

BY_HAND = "derived here, by hand"
TASK = "task=bda_toy eval_every=5"
# With whom y_2 never moves, since neither f nor the derivative of a best response sees it.
STUCK = ("reverse", "cg", "pseudo_inverse", "minres", "galet", "neumann", "identity", "nystrom")
# grad F moves y, or the start of y is learned.
FREE = ("ia", "iaptt", "bda", "bome", "pbgd", "g_pbgd", "f2sa", "meha", "bvfsm")
PUBLISHED = (1, 10, 100)  # inner steps of BOME's own example, with step sizes and eta of 1/2
REASONS = {
    "cg": "stops at the singular Hessian, outside of whose range the outer gradient has a part",
    "nystrom": "its damping of 0.1 shrinks the response, and x ends at 0.476",
    "bda": "the weight of F falls to 0 within an inner solve, which so stops short",
}


def rows(results: Results) -> list[Row]:
    found = []
    for method in STUCK:
        for column, value in (("value", 0.25), ("x", 0.5)):
            ours = results.last(method, column)
            text = f"`{method}`: {'F' if column == 'value' else column}"
            why = REASONS.get(method, "")
            found.append(Row(text, near(value, 2e-3), BY_HAND, ours, why))
    for method in FREE:
        ours = results.last(method, "value")
        why = REASONS.get(method, "")
        found.append(Row(f"`{method}`: F", below(1e-3, "0"), BY_HAND, ours, why))
    for steps in PUBLISHED:
        run = f"bome K={steps}"
        ours = results.last(run, "value")
        found.append(
            Row(f"BOME's settings, K = {steps}: F", below(1e-6, "0"), "BOME, example", ours)
        )
        ours = results.last(run, "distance")
        text = f"BOME's settings, K = {steps}: distance of x to the solution"
        found.append(Row(text, below(1e-3, "0"), "BOME, example", ours))
    return found


def curves(results: Results, figure: Any) -> None:
    left, right = figure.subplots(1, 2, sharey=True)
    for pane, methods in ((left, STUCK), (right, FREE)):
        for run, scores in results.present(list(methods)):
            pane.semilogy(scores.index, scores["value"].clip(lower=1e-12), label=run)
        pane.axhline(0.25, color="gray", ls=":", lw=0.7)
        pane.set(xlabel="outer step", ylim=(1e-9, 2))
        legend(pane, ncols=2, loc="lower left" if pane is left else "upper right")
    left.set_ylabel("F")


ITEM = Item(
    order=8,
    title="A follower with many best responses (BDA's counter-example, BOME's toy)",
    about="The solution is x = 1, y = (1, 1) with F = 0. Whoever leaves y₂ where it began ends at "
    "x = 1/2 with F = 1/4 (dotted), however good the derivative. Nine methods do not, since "
    "F moves y itself or a learned start does.",
    open="Published as a picture and an argument, without numbers. The step sizes but for BOME's "
    "are ours: 20 inner steps of 0.5, outer step size 0.05, 300 outer steps.",
    runs=(
        *(Run(method, f"{TASK} method={method}") for method in (*STUCK, *FREE)),
        *(
            Run(
                f"bome K={steps}",
                f"task=bda_toy method=bome inner_steps={steps} optimizer.lr=0.5 outer_steps=100",
            )
            for steps in PUBLISHED
        ),
    ),
    rows=rows,
    figures=(
        Figure(
            "counterexample",
            "F along the runs. Left: fixed start of y₂. Right: F moves y, or its start is learned.",
            curves,
        ),
    ),
)
