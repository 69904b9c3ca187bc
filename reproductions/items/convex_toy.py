"""The convex example of IAPTT-GM, accelerated and not."""

from typing import Any

import torch

from bilevel_cli.core.oracle import Oracle
from bilevel_cli.solvers.nesterov import Nesterov, NesterovState
from reproductions.figure import legend
from reproductions.item import DERIVED, Figure, Item, Row, Run, above, near
from reproductions.results import Results


class Printed(Nesterov):
    """The momentum sequence as the paper prints it, t_{k+1} = (1 + sqrt(1 + t_k^2)) / 2.

    It lacks a factor 4: t tends to 4/3 and the momentum to the constant 1/4.
    """

    def step(self, oracle: Oracle, state: NesterovState) -> NesterovState:
        following = (1 + torch.sqrt(1 + state["t"] ** 2)) / 2
        stepped = super().step(oracle, state)
        return {**stepped, "t": following, "weight": (state["t"] - 1) / following}


METHODS = {
    "reverse": "method=reverse",
    "IA": "method=ia",
    "IA, accelerated": "method=ia solver=nesterov",
}
# Inner steps, their size, outer steps; |x - x*| and |y - y*| of each method.
DERIVATIONS: dict[tuple[int, float, int], tuple[tuple[float, float], ...]] = {
    (40, 0.01, 500): ((3.091, 9.116), (4.759, 5.312), (1.120, 1.990)),
    (40, 0.1, 500): ((3.518, 7.921), (0.747, 1.690), (0.831, 1.756)),
    (40, 0.01, 5000): ((3.091, 9.116), (4.747, 4.913), (0.611, 0.876)),
    (400, 0.01, 5000): ((3.514, 7.925), (0.151, 0.470), (0.261, 0.561)),
}
MISPRINT, LONGER = "IA, as printed", "IA, step longer by a third"
ABLATION = {
    MISPRINT: f"method=ia solver=nesterov solver._target_={Printed.__module__}.{Printed.__name__}",
    LONGER: "method=ia solver.lr=0.0133333",
}


def label(method: str, steps: int, lr: float, outer_steps: int) -> str:
    return f"{method}, K={steps}, {lr}, {outer_steps}"


def rows(results: Results) -> list[Row]:
    found = []
    for settings, pairs in DERIVATIONS.items():
        for method, distances in zip(METHODS, pairs, strict=True):
            for letter, value in zip("xy", distances, strict=True):
                run = label(method, *settings)
                ours = results.last(run, f"distance_{letter}")
                found.append(
                    Row(f"{run}: |{letter} - {letter}*|", near(value, 0.01), DERIVED, ours)
                )
    unknown = "x₀, K and the step sizes of Fig. 3 are not stated"
    first = next(iter(DERIVATIONS))
    for method, published in (("IA", (1.72, 2.05)), ("IA, accelerated", (0.68, 1.08))):
        for letter, value in zip("xy", published, strict=True):
            run = label(method, *first)
            ours = results.last(run, f"distance_{letter}")
            text = f"{run}: |{letter} - {letter}*|"
            found.append(Row(text, near(value, 0.05), "Fig. 3, read off", ours, unknown))
    plain, fast, printed, longer = (
        results.last(label(method, *first), "distance_x")
        for method in ("IA", "IA, accelerated", MISPRINT, LONGER)
    )
    text = "|x - x*|, IA / IA accelerated: who is ahead"
    found += [
        Row(text, above(1, f"{1.72 / 0.68:.1f}"), "Fig. 3, read off", plain / fast),
        Row("misprinted momentum: |x - x*| / that accelerated", above(3), THIRD, printed / fast),
        Row(
            "misprinted momentum against a step longer by a third",
            near(0, 0.1),
            THIRD,
            printed - longer,
        ),
    ]
    return found


THIRD = "derived here: a momentum of 1/4 makes steps 4/3 as long"


def curves(results: Results, figure: Any) -> None:
    panes = figure.subplots(1, 3, sharey=True)
    letters = (("x", (40, 0.01, 500)), ("y", (40, 0.01, 500)), ("x", (40, 0.1, 500)))
    for pane, (letter, settings) in zip(panes, letters, strict=True):
        methods = [*METHODS, *ABLATION] if settings[1] == 0.01 else list(METHODS)
        for method in methods:
            for _, scores in results.present([label(method, *settings)]):
                style = "--" if method in ABLATION else "-"
                pane.plot(scores.index, scores[f"distance_{letter}"], style, label=method)
        pane.set(xlabel="outer step", ylabel=f"|{letter} - {letter}*|")
        pane.set_title(f"K = {settings[0]}, inner step size {settings[1]}")
    panes[0].set_ylim(0, None)
    legend(panes[0])


ITEM = Item(
    order=6,
    title="The convex example, with and without acceleration (eq. 13, Fig. 3a, b)",
    about="50 dimensions, from x = 0 and z = 0, outer step sizes 0.001. A fixed start cannot "
    "solve it, a learned one can; acceleration wins where the inner problem is solved "
    "badly, as in the figure. `as printed` is the accelerated method with the misprinted "
    "momentum sequence.",
    open="Start, K and step sizes of Fig. 3 are not stated, so its values are not expected to be "
    "met; the order of its curves is. The longer runs are part of `make reproduce`.",
    runs=(
        *(
            Run(
                label(method, *settings),
                f"task=convex_toy {choice} inner_steps={settings[0]} solver.lr={settings[1]} "
                f"outer_steps={settings[2]} eval_every=10",
                quick=settings[2] == 500,
            )
            for settings in DERIVATIONS
            for method, choice in METHODS.items()
        ),
        *(
            Run(label(name, 40, 0.01, 500), f"task=convex_toy {choice} eval_every=10")
            for name, choice in ABLATION.items()
        ),
    ),
    rows=rows,
    figures=(Figure("convex_toy", "Distances to the solution; dashed: the ablation.", curves),),
)
