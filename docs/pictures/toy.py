"""A follower with many valleys: docs/gallery.md and docs/concepts/unrolled_implicit.md.

The example of IAPTT-GM (Liu et al., 2021, arXiv:2110.00455) from its three starts.
"""

import look
import numpy as np
import pandas as pd

STARTS = ("[1.0,2.0]", "[5.0,1.0]", "[7.0,-1.0]")
SOLUTION = 11 * np.pi / 4, -2.0


def draw() -> None:
    drawing = look.figure(700, 300)
    panes = drawing.subplots(1, 2, sharey=True)
    x, y = np.meshgrid(np.linspace(1, 10, 300), np.linspace(-2, 2, 200))
    titles = {"reverse": "method=reverse", "iaptt": "method=iaptt"}
    for axes, (method, title) in zip(panes, titles.items(), strict=True):
        folder = look.sweep(
            *(f"toy_{method}", "task=toy", f"method={method}", "eval_every=2"),
            "task.start=" + ",".join(STARTS),
        )
        axes.contourf(x, y, -np.sin(x * y), levels=6, cmap="Greys", alpha=0.35)
        for path, colour in zip(
            sorted(folder.glob("*/eval.csv")), (look.BLUE, look.GREEN, look.PURPLE), strict=True
        ):
            run = pd.read_csv(path)
            axes.plot(run["x"], run["y"], color=colour, linewidth=1.4, alpha=0.9)
            axes.plot(run["x"].iloc[0], run["y"].iloc[0], "o", color=colour, markersize=5)
            axes.plot(run["x"].iloc[-1], run["y"].iloc[-1], "s", color=colour, markersize=6)
        axes.plot(*SOLUTION, "*", color=look.ORANGE, markersize=15, clip_on=False, zorder=5)
        axes.set(xlabel="outer parameter x", xlim=(1, 10), ylim=(-2.1, 2.1))
        axes.set_title(title)
    panes[0].set_ylabel("inner parameter y, after 40 steps")
    look.save(drawing, "toy", "png")


if __name__ == "__main__":
    draw()
