"""The same runs, compared at equal steps and at equal cost: docs/concepts/budgets.md."""

import look
import pandas as pd

METHODS = {"reverse": look.BLUE, "f2sa": look.GREEN, "soba": look.ORANGE}
APART = {"reverse": 0.0, "f2sa": -0.8, "soba": 0.6}  # of the curves' ends, to be read


def draw() -> None:
    drawing = look.figure(700, 280)
    panes = drawing.subplots(1, 2, sharey=True)
    for method, colour in METHODS.items():
        rate = 1 if method != "soba" else 100  # a step of SOBA takes one inner gradient
        folder = look.sweep(
            *(f"budgets_{method}", "task=reweight", f"method={method}", "seed=0,1,2"),
            *("budget=15000", "outer_steps=100000", "save_every=100000"),
            *(f"eval_every={rate}", f"log_every={rate}"),
        )
        runs = [
            pd.read_csv(path)[["step", "test_accuracy"]].merge(
                pd.read_csv(path.with_name("train.csv"))[["step", "inner_grads"]], on="step"
            )
            for path in folder.glob("*/eval.csv")
        ]
        mean = pd.concat(runs).groupby("step").mean().reset_index()
        for axes, column in zip(panes, ("step", "inner_grads"), strict=True):
            axes.plot(mean[column], 100 * mean["test_accuracy"], color=colour, linewidth=1.8)
        end = 100 * mean["test_accuracy"].iloc[-1]
        look.label(panes[1], mean["inner_grads"].iloc[-1], end + APART[method], method, colour)
    panes[0].set(xlabel="outer steps", ylabel="test accuracy %", xlim=(0, 150), ylim=(76, 95))
    panes[0].set_title("At equal steps")
    panes[1].set(xlabel="inner gradients", xlim=(0, 19000))
    panes[1].set_xticks([0, 5000, 10000, 15000])
    panes[1].set_title("At equal cost")
    look.save(drawing, "budgets")


if __name__ == "__main__":
    draw()
