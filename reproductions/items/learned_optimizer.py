"""A learned optimizer, by reverse mode, truncated reverse mode, PES and ES-Single."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor

from bilevel_cli.config.options import CONF
from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.es_single import EsSingle
from bilevel_cli.methods.pes import Pes
from bilevel_cli.starts.cold import Cold
from reproductions.figure import legend
from reproductions.item import THEORY, Figure, Item, Row, Run, Table, above, below
from reproductions.results import Results

SEEDS = range(3)
WINDOW, WINDOWS = 10, 5
DRAWS, PAIRS, STD = 200, 4, 0.001
TRAININGS = 25
SHARED = "task=learned_optimizer log_every=20"
CUT = (
    f"optimizer.lr=0.01 inner_steps={WINDOW} outer_steps={WINDOWS * TRAININGS} "
    f"eval_every={5 * WINDOWS}"
)
KINDS = {
    "reverse": f"{SHARED} method=reverse inner_steps={WINDOW * WINDOWS} "
    f"outer_steps={TRAININGS} eval_every=5 optimizer.lr=0.01",
    "reverse, smaller steps": f"{SHARED} method=reverse inner_steps={WINDOW * WINDOWS} "
    f"outer_steps={TRAININGS} eval_every=5 optimizer.lr=0.003",
    "truncated": f"{SHARED} {CUT} method=reverse start=pool start.size=1 "
    f"start.renew_every={WINDOWS}",
    "PES": f"{SHARED} {CUT} method=pes method.horizon={WINDOWS} method.std=0.003",
    "ES-Single": f"{SHARED} {CUT} method=es_single method.horizon={WINDOWS} method.std=0.003",
}
TUNED = {"gradient descent": "gd", "Adam": "adam"}


def measure(folder: Path) -> None:
    """Writes bias.csv: estimates of the derivative of the mean loss of a whole training."""
    loop, outer, data = _training()
    rows = [cut(data, number) for number in range(WINDOWS)]

    def course(outer: Params, state: Any, data: StepData) -> tuple[Tensor, Any]:
        losses = []
        for t in range(data.num_steps):
            state = loop.step(state, outer, data, t)
            losses.append(loop.problem.outer_loss(state["inner"], outer, data.outer))
        return torch.stack(losses).mean(), state

    whole = autodiff.grad(lambda outer: course(outer, loop.fresh(outer, data), data)[0])(outer)
    true, state = trees.ravel(whole)[0], loop.fresh(outer, data)
    truncated = torch.zeros_like(true)
    for row in rows:
        slope, (_, state) = autodiff.grad_and_value(course, has_aux=True)(outer, state, row)
        truncated += trees.ravel(slope)[0] / WINDOWS
    found = [_told("truncated", truncated[None], true)]
    for name, method in (
        ("PES", Pes(PAIRS, STD, WINDOWS)),
        ("ES-Single", EsSingle(PAIRS, STD, WINDOWS)),
    ):
        found.append(_told(name, _estimates(method, loop, outer, rows), true))
    pd.DataFrame(found).to_csv(folder / "bias.csv", index=False)


def _training() -> tuple[InnerLoop, Params, StepData]:
    """A whole training of the problems of seed 0, by the rule before it is learned."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=["task=learned_optimizer"])
    generator = torch.Generator().manual_seed(0)
    task = instantiate(config.task, device=torch.device("cpu"), generator=generator)
    loop = InnerLoop(task, instantiate(config.solver), Cold())
    data = task.sample(WINDOW * WINDOWS, generator)
    return loop, loop.outer_init(data, {}), data


def cut(data: StepData, number: int) -> StepData:
    """A window of the training."""
    steps = slice(number * WINDOW, (number + 1) * WINDOW)
    return data._replace(inner={name: value[steps] for name, value in data.inner.items()})


def _estimates(method: Pes, loop: InnerLoop, outer: Params, rows: list[StepData]) -> Tensor:
    """Sums over the windows of a training, over their number: [DRAWS, outer parameters]."""
    generator = torch.Generator().manual_seed(1)
    noise = [
        {
            name: method.std * torch.randn(DRAWS, PAIRS, *value.shape, generator=generator)
            for name, value in outer.items()
        }
        for _ in rows
    ]

    def summed(noise: list[Params]) -> Tensor:
        carry, total = method.init(outer, loop.fresh(outer, rows[0])), torch.zeros(())
        for row, eps in zip(rows, noise, strict=True):
            estimate = method.estimate(loop, outer, row._replace(noise=eps), carry)
            total, carry = total + trees.ravel(estimate.grad)[0] / WINDOWS, estimate.carry
        return total

    return torch.cat(
        [
            autodiff.vmap(lambda *noise: summed(list(noise)))(
                *({n: value[first : first + 50] for n, value in eps.items()} for eps in noise)
            )
            for first in range(0, DRAWS, 50)
        ]
    )


def _told(name: str, estimates: Tensor, true: Tensor) -> dict[str, Any]:
    mean, count = estimates.mean(0), len(estimates)
    error = estimates.std(0) / count**0.5 if count > 1 else torch.full_like(true, torch.nan)
    return {
        "method": name,
        "relative_error": float((mean - true).norm() / true.norm()),
        "cosine": float(mean @ true / mean.norm() / true.norm()),
        "largest_z": float(((mean - true) / error).abs().max()),
        "noise": float(estimates.std(0).norm() / true.norm()) if count > 1 else 0.0,
    }


def gains(results: Results, kind: str, score: str, tuned: str) -> list[float]:
    """The learned rule's loss over that of a tuned optimizer, by seeds."""
    runs = [f"{kind} {seed}" for seed in SEEDS]
    return [results.last(run, score) / results.last(run, f"{tuned}_{score}") for run in runs]


def rows(results: Results) -> list[Row]:
    found = [
        Row(
            f"{name}: largest z-score of the mean of {DRAWS} estimates",
            below(4.5),
            THEORY,
            results.cell("bias", name, "largest_z"),
        )
        for name in ("PES", "ES-Single")
    ]
    error = results.cell("bias", "truncated", "relative_error")
    found.append(Row("truncated: relative error", above(0.1), "Vicol et al. (2021)", error))
    for kind in KINDS:
        worst = max(gains(results, kind, "final_loss", "gd"))
        text = f"{kind}: last loss over that of tuned gradient descent, the worst seed"
        reason = "a step of the optimizer leads to where the inner steps are unstable"
        found.append(Row(text, below(1), "ours", worst, reason))
    for kind in ("PES", "ES-Single"):
        runs = [f"{kind} {seed}" for seed in SEEDS], [f"truncated {seed}" for seed in SEEDS]
        pairs = zip(
            *([results.last(run, "mean_loss") for run in some] for some in runs), strict=True
        )
        text = f"{kind}: mean loss over that of truncated reverse mode, the worst seed"
        found.append(Row(text, below(1), "Vicol et al. (2021)", max(a / b for a, b in pairs)))
    return found


def cells(results: Results) -> list[list[str]]:
    lines = [["learned by", "last loss", "mean loss", "inner gradients", "products"]]
    for kind in KINDS:
        runs = [f"{kind} {seed}" for seed in SEEDS]
        row = [kind]
        for score in ("final_loss", "mean_loss"):
            row.append(_spread([results.last(run, score) for run in runs]))
        for cost in ("inner_grads", "hvps"):
            train = results.train(runs[0])
            row.append(f"{train[cost].iloc[-1]:.0f}" if len(train) else "-")
        lines.append(row)
    for name, prefix in TUNED.items():
        runs = [f"reverse {seed}" for seed in SEEDS]
        losses = [
            _spread([results.last(run, f"{prefix}_{score}") for run in runs])
            for score in ("final_loss", "mean_loss")
        ]
        lines.append([f"{name}, tuned", *losses, "-", "-"])
    return lines


def _spread(numbers: list[float]) -> str:
    if any(np.isnan(numbers)):
        return "-"
    return f"{np.mean(numbers):.4f} ± {np.std(numbers, ddof=1):.4f}"


def curves(results: Results, figure: Any) -> None:
    left, right = figure.subplots(1, 2, sharex=True)
    for pane, score in ((left, "final_loss"), (right, "mean_loss")):
        for color, kind in enumerate(KINDS):
            every = 1 if kind.startswith("reverse") else WINDOWS
            for seed in SEEDS:
                for _, scores in results.present([f"{kind} {seed}"]):
                    label = kind if seed == 0 else None
                    trainings = scores.index / every
                    pane.semilogy(trainings, scores[score], color=f"C{color}", label=label)
        for style, (name, prefix) in zip((":", "--"), TUNED.items(), strict=True):
            for _, scores in results.present(["reverse 0"]):
                level = scores[f"{prefix}_{score}"].iloc[-1]
                pane.axhline(level, color="gray", ls=style, label=f"{name}, tuned, seed 0")
        pane.set(xlabel="trainings", ylabel=score.replace("_", " "))
    legend(left)


ITEM = Item(
    order=22,
    title="A learned optimizer (Metz et al., 2019, arXiv:1810.10180; Vicol et al., 2021, "
    "arXiv:2112.13835)",
    about=f"A rule of 9 numbers is learned on 8 quadratics and 8 small networks, in {TRAININGS} "
    f"trainings of {WINDOW * WINDOWS} steps: by reverse mode through whole trainings, and by "
    f"methods that see windows of {WINDOW} steps. Losses are those of new problems; methods with "
    "one seed have the same problems. Before that, at the rule with which learning begins: the "
    f"mean of {DRAWS} estimates of the derivative of the mean loss of one training, by {PAIRS} "
    f"pairs with a standard deviation of {STD}, each a sum over its windows.",
    open="The papers learn a network, on image classifiers, for thousands of hours. Here a "
    "weighted sum of some of its inputs is learned, in seconds.",
    runs=tuple(
        Run(f"{kind} {seed}", f"{options} seed={seed}")
        for kind, options in KINDS.items()
        for seed in SEEDS
    ),
    rows=rows,
    figures=(Figure("learned_optimizer", "Losses on new problems, by trainings.", curves),),
    tables=(Table("After the last training, mean and standard deviation over seeds.", cells),),
    measure=measure,
)
