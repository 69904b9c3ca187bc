"""Draws picture.png from the sweep of README.md: python picture.py outputs/forecast."""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

import bilevel_cli

runs = bilevel_cli.load(sys.argv[1])
errors = runs.pivot(index="seed", columns="task.forget", values="test_rmse")
alike, forgetting = errors[False], errors[True]
steps = bilevel_cli.load(sys.argv[1], kind="eval").dropna(subset="half_life")

figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 4.2), layout="constrained")
ends = [0.95 * errors.min().min(), 1.05 * errors.max().max()]
left.plot(ends, ends, color="#8a929b", linewidth=1)
left.scatter(alike, forgetting, color="#2166ac", zorder=2)
left.set(xlim=ends, ylim=ends, aspect="equal")
left.set(xlabel="test RMSE, all of the past counts alike", ylabel="test RMSE, learned half-life")
better = int((forgetting < alike).sum())
left.set_title(f"each point is a series: {better} of {len(alike)} lie below the line")

for _, series in steps.groupby("seed"):
    right.semilogy(series["step"], series["half_life"], color="#d6601d", linewidth=0.8)
right.axhline(13.9, color="#24292f", linewidth=1)
right.text(0, 13.0, "13.9: Kalman filter\nof one weight", va="top", fontsize=9)
right.set(xlabel="outer step", ylabel="learned half-life, in time steps")
right.set_title("how fast the past grows stale, in each series")
for axes in (left, right):
    axes.spines[["top", "right"]].set_visible(False)
    axes.title.set_fontsize(10)
figure.savefig(Path(__file__).with_name("picture.png"), dpi=110, metadata={"Software": None})
