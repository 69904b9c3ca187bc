"""A bilevel problem with one outer parameter: docs/concepts/bilevel.md.

Left, the outer loss as a function of an L2 penalty: each dot is a training of its own, from start
to end. Right, what two runs that follow the hypergradient do with the same penalty.
"""

import look
import pandas as pd

TASK = (
    *("task=hpo", "task/penalty/granularity=global", "data=breast_cancer", "data.train=50"),
    *("solver=momentum", "inner_steps=200", "eval_every=1"),
)
PENALTIES = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
BEGINNINGS = (0.0005, 0.4)


def draw() -> None:
    folder = look.sweep(
        "valley",
        *(*TASK, "method=none", "outer_steps=1"),
        "task.penalty.initial=" + ",".join(map(str, PENALTIES)),
    )
    each = pd.concat([pd.read_csv(path).iloc[-1:] for path in folder.glob("*/eval.csv")])
    each = each.sort_values("penalty.all")
    drawing = look.figure(700, 280)
    left, right = drawing.subplots(1, 2)
    left.semilogx(each["penalty.all"], each["validation_loss"], ".-", color=look.INK, linewidth=1)
    left.set(xlabel="penalty λ", ylabel="outer loss F, on validation examples")
    left.set_title("Each dot is an inner problem, solved")
    for initial, colour in zip(BEGINNINGS, (look.BLUE, look.ORANGE), strict=True):
        run = look.run(
            *(f"valley_{initial}", *TASK, "method=cg", "outer_steps=20"),
            *("optimizer.lr=0.5", f"task.penalty.initial={initial}"),
        )
        path = pd.read_csv(run / "eval.csv")
        # The classifier of a row was trained with the penalty of the row before.
        before, after = path["penalty.all"].iloc[:-1], path["validation_loss"].iloc[1:]
        left.plot(before, after, "o", color=colour, markersize=7, alpha=0.6)
        right.semilogy(path["step"], path["penalty.all"], ".-", color=colour, linewidth=1.6)
    right.set(xlabel="outer step", ylabel="penalty λ")
    right.set_title("Two runs follow the hypergradient")
    look.save(drawing, "valley")


if __name__ == "__main__":
    draw()
