"""The weights of right and of wrong labels come apart: README.md and docs/gallery.md.

600 digits, half of them with a wrong label. The run is stopped at each of `STEPS` and goes on from
there, and `weights.csv` says each time what it thinks of every label.
"""

import shutil

import look
import pandas as pd
from matplotlib.collections import LineCollection
from sklearn.datasets import load_digits

STEPS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 50, 60, 80, 100, 125, 150)
SHOWN = 12


def weights() -> pd.DataFrame:
    """A row for each label and each of the moments."""
    moments = []
    for step in STEPS:
        kept = look.RUNS / f"weights_{step}.csv"
        if not kept.exists():
            folder = look.run("weights", "task=reweight", f"outer_steps={step}", "save_every=1000")
            shutil.copy(folder / "weights.csv", kept)
        moments.append(pd.read_csv(kept).assign(step=step))
    begin = moments[0].assign(step=0, weight=0.5)  # where all weights are before the first step
    return pd.concat([begin, *moments])


def draw(table: pd.DataFrame) -> None:
    drawing = look.figure(700, 290)
    left, right = drawing.subfigures(1, 2, width_ratios=(1.2, 1))
    axes = left.subplots()
    kinds = ((0, look.BLUE, "right labels"), (1, look.ORANGE, "wrong labels"))
    for flag, colour, name in kinds:
        curves = table[table["flag"] == flag].pivot(index="step", columns="index", values="weight")
        lines = [list(curves[row].items()) for row in curves]
        axes.add_collection(LineCollection(lines, colors=colour, alpha=0.3, linewidths=0.7))
        look.label(axes, STEPS[-1], curves.iloc[-1].median(), name, colour)
    axes.set(xlabel="outer step", ylabel="weight of a label", xlim=(0, 200), ylim=(0, 1))
    axes.set_xticks([0, 50, 100, 150])
    axes.set_title("600 labels, 300 of them wrong")

    last = table[table["step"] == STEPS[-1]].sort_values("weight").head(SHOWN)
    images = load_digits().images
    cells = right.subplots(3, SHOWN // 3)
    for cell, (_, row) in zip(cells.flat, last.iterrows(), strict=True):
        cell.imshow(images[int(row["index"])], cmap="gray_r", interpolation="bicubic")
        cell.set(xticks=[], yticks=[])
        cell.set_title(f"labelled {row['label']:.0f}", loc="center", fontsize=8.5, pad=3)
        cell.spines[:].set(visible=True, color=look.ORANGE if row["flag"] else look.BLUE)
    right.suptitle("The twelve of lowest weight", x=0.02, ha="left", fontsize=11)
    look.save(drawing, "weights", "png")  # 600 curves


if __name__ == "__main__":
    draw(weights())
