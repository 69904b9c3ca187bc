"""Draws picture.png from the runs of README.md: python picture.py FOLDER_OF_THE_SWEEP."""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

BLUE, ORANGE = "#2a6fbb", "#d9772b"

paths = sorted(Path(sys.argv[1]).glob("*/corridor.pt"))
runs = [{n: x.numpy() for n, x in torch.load(path).items()} for path in paths]
x = (np.arange(16) + 0.5) / 16
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")

image = left.imshow(
    runs[0]["seen"] / 16, "Blues", origin="lower", extent=(0, 1, 0, 1), aspect="auto"
)
figure.colorbar(image, ax=left, label="share of the people", shrink=1)
left.set(title="What was seen", xlabel="place in the corridor", ylabel="time")

share = runs[0]["rho"].mean(0) / 16
crowded = share > 0.02
right.axvspan(x[crowded].min() - 1 / 32, x[crowded].max() + 1 / 32, color=BLUE, alpha=0.12, lw=0)
for number, run in enumerate(runs):
    cost = run["cost"] - (run["cost"] - run["truth"])[crowded].mean()
    right.plot(x, cost, color=ORANGE, lw=1.2, label="found, five times" if number == 0 else None)
right.plot(x, runs[0]["truth"], color="black", lw=1.6, ls="--", label="the true cost")
right.text(x[crowded].mean(), -0.16, "where the crowd is", color=BLUE, ha="center")
right.set(title="What it says of the cost", xlabel="place in the corridor", ylim=(-0.2, 0.45))
right.legend(frameon=False, loc="upper center", ncols=2, fontsize=8)
right.spines[["top", "right"]].set_visible(False)

figure.savefig(Path(__file__).with_name("picture.png"), dpi=110)
