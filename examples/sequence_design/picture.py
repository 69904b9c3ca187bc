"""Draws picture.png from the sweep of README.md: python picture.py outputs/sequence_design."""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

import bilevel_cli

runs = bilevel_cli.load(sys.argv[1])
runs = runs[runs["task.share"].astype(float) < 1].sort_values("best_known", ignore_index=True)
steps = bilevel_cli.load(sys.argv[1], kind="eval")
steps = steps[steps["task.share"].astype(float) < 1]

figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 4.2), layout="constrained")
shown = {
    "best_design": ("#2166ac", "the best of 16 designs"),
    "liked_design": ("#1b8a5a", "the one that v likes most"),
    "median_design": ("#7b4ea3", "the median design"),
    "best_known": ("#d6601d", "the best known sequence"),
}
for name, (colour, text) in shown.items():
    left.scatter(runs.index, runs[name], color=colour, s=18, label=text)
    mean = steps.groupby("step")[name].mean()
    right.plot(mean.index, mean, color=colour, label=text)
above = int((runs["best_design"] > runs["best_known"]).sum())
left.set_title(f"in {above} of {len(runs)} problems the best design is above the best known")
left.set(
    xlabel="the problems, by the score of the best known sequence",
    ylabel="0: the worst, 1: the best of all",
    xticks=[],
)
right.set_title("the mean over them, as the designs are learned")
right.set(xlabel="outer step", ylim=left.get_ylim())
right.legend(frameon=False, fontsize=9)
for axes in (left, right):
    axes.spines[["top", "right"]].set_visible(False)
    axes.title.set_fontsize(10)
figure.savefig(Path(__file__).with_name("picture.png"), dpi=110, metadata={"Software": None})
