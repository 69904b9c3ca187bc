"""Draws picture.png from the sweep of README.md: python picture.py outputs/network_flow."""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch

import bilevel_cli

runs = bilevel_cli.load(sys.argv[1])
errors = runs.pivot(index="seed", columns="task.per_edge", values="test_rmse")
shared, per_edge = errors[False], errors[True]
learned = [
    torch.load(Path(folder) / "outer.pt", weights_only=True)["theta"]
    for folder in runs[runs["task.per_edge"].astype(bool)].sort_values("seed")["folder"]
]

figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 4.2), layout="constrained")
ends = [0.7 * errors.min().min(), 1.4 * errors.max().max()]
left.loglog(ends, ends, color="#8a929b", linewidth=1)
left.scatter(shared, per_edge, color="#2166ac", zorder=2)
left.set(xlim=ends, ylim=ends, aspect="equal")
left.set(xlabel="test RMSE, one shared penalty", ylabel="test RMSE, a penalty for each edge")
better = int((per_edge < shared).sum())
left.set_title(f"each point is a network: {better} of {len(shared)} lie below the line")

names = ["all edges", "wide edges\n(noisy)", "nothing"]
for place, values in enumerate(torch.stack(learned).T):
    spread = torch.linspace(-0.15, 0.15, len(values))
    right.scatter(place + spread, values, color="#d6601d", s=18)
right.axhline(0, color="#8a929b", linewidth=1)
right.set_xticks(range(len(names)), names)
right.set(xlim=(-0.5, 2.5), ylabel=r"learned $\theta$, in 20 networks")
right.set_title("what each feature of an edge says of its penalty")
for axes in (left, right):
    axes.spines[["top", "right"]].set_visible(False)
    axes.title.set_fontsize(10)
figure.savefig(Path(__file__).with_name("picture.png"), dpi=110, metadata={"Software": None})
