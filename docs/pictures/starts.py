"""What a warm start remembers: docs/concepts/starts.md.

One angle is learned; inner parameters see one direction at a time (task=memory_toy).
"""

import look
import pandas as pd


def draw() -> None:
    drawing = look.figure(700, 280)
    panes = drawing.subplots(1, 2, sharey=True)
    for axes, start in zip(panes, ("warm", "cold"), strict=True):
        folder = look.run(f"starts_{start}", "task=memory_toy", f"start={start}")
        table = pd.read_csv(folder / "eval.csv")
        axes.axhline(table["best_cold"].iloc[0], color=look.FAINT, linestyle=":", linewidth=1.2)
        axes.plot(table["step"], table["retrained"], color=look.BLUE, linewidth=1.6)
        axes.plot(table["step"], table["joint"], color=look.ORANGE, linewidth=1.6)
        axes.set(xlabel="outer step", ylim=(0, 0.55))
        axes.set_title(f"start={start}")
    panes[0].set_ylabel("outer loss F")
    table = pd.read_csv(look.RUNS / "starts_warm" / "eval.csv")
    panes[0].text(1250, 0.125, "of the run's own inner parameters", color=look.ORANGE)
    panes[0].text(1250, 0.515, "of inner parameters solved afresh", color=look.BLUE)
    panes[1].text(
        2300, table["best_cold"].iloc[0] - 0.035, "least that any angle allows", color=look.FAINT
    )
    look.save(drawing, "starts")


if __name__ == "__main__":
    draw()
