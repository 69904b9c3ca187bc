"""Draws picture.png from the runs of README.md: python picture.py FOLDER_OF_THE_SWEEP."""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

ORANGE, BLUE = "#d9772b", "#2a6fbb"
BEGINS = {"True": ("means of clusters", ORANGE), "False": ("nodes drawn at random", BLUE)}

folder = Path(sys.argv[1])
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")

for merge, (what, color) in BEGINS.items():
    tables = [
        np.genfromtxt(path, delimiter=",", names=True)
        for path in sorted(folder.glob(f"*merge={merge},*/eval.csv"))
    ]
    curves = 100 * np.stack([table["retrained_test_accuracy"] for table in tables], axis=1)
    left.plot(tables[0]["step"], curves, color=color, lw=0.8, alpha=0.5)
    left.plot(tables[0]["step"], curves.mean(1), color=color, lw=2.2, label=what)
left.set(xlabel="outer step", ylabel="test accuracy, %", title="Networks trained on 20 nodes alone")
left.legend(title="the 20 nodes begin as", frameon=False, fontsize=8, loc="lower right")
left.spines[["top", "right"]].set_visible(False)

(path,) = folder.glob("*seed=0,*merge=True,*/outer.pt")
x = torch.load(path, weights_only=True)["x"]
image = right.imshow(x[x[:, :4].argmax(1).argsort()], "PuOr", vmin=-3, vmax=3, aspect="auto")
figure.colorbar(image, ax=right)
right.set(
    xlabel="feature (the first four tell the class)",
    ylabel="node, by its class",
    title="What was learned",
)
right.set_yticks([])

figure.savefig(Path(__file__).with_name("picture.png"), dpi=110)
