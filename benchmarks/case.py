"""A bilevel problem at one point, as every implementation sees it."""

import copy
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.func import functional_call

from bilevel_cli.config.options import CONF
from bilevel_cli.config.resolved import resolved
from bilevel_cli.core import episodes, trees
from bilevel_cli.core.method import Estimate
from bilevel_cli.core.problem import Batch, StepData
from bilevel_cli.core.random import generator
from bilevel_cli.core.start import LEARNED_PREFIX
from bilevel_cli.core.trees import Params
from bilevel_cli.nn.normalization import BatchNorm2d
from bilevel_cli.nn.pooling import AvgPool2x2, MaxPool2x2
from bilevel_cli.runs.build import build

Implementation = Callable[[], Params]  # returns the hypergradient
Forward = Callable[[Tensor], Tensor]
# A loss of the model, its parameters, the outer parameters and a batch.
Loss = Callable[[Forward, Sequence[Tensor], Params, Batch], Tensor]


@dataclass(frozen=True)
class Case:
    """The problem in plain torch for the peers, and the same one as a run of ours.

    Args:
        kind: The function of a peer that solves it: "unrolled", "implicit" or "pessimistic".
        model: A module of torch's own layers, whose parameters are the start of the inner problem.
        ours_inside: The same with this project's layers, where it has any.
        outer: The outer parameters; none where the start is what is learned.
        episodes: Batches of the inner and of the outer loss, for every inner problem.
        inner_loss: f.
        outer_loss: F.
        steps: Inner steps.
        lr: Their step size.
        momentum: Their momentum.
        solver: The class of ours that implicit differentiation solves with.
        products: Products with the Hessian: iterations of CG, terms of the series.
        ours: This project's implementation.
        metrics: What our method reports of itself.
    """

    kind: str
    model: nn.Module
    ours_inside: nn.Module | None
    outer: Params
    episodes: list[tuple[Batch, Batch]]
    inner_loss: Loss
    outer_loss: Loss
    steps: int
    lr: float
    momentum: float
    solver: str
    products: int
    ours: Implementation
    metrics: Callable[[], dict[str, float]]

    @property
    def names(self) -> list[str]:
        """Of the entries of the hypergradient."""
        return list(self.outer) or [name for name, _ in self.model.named_parameters()]

    @property
    def is_cg(self) -> bool:
        return self.solver == "ConjugateGradient"

    def at(self, z: Sequence[Tensor]) -> Forward:
        """The model with parameters `z`."""
        names = [name for name, _ in self.model.named_parameters()]
        params = dict(zip(names, z, strict=True))
        return lambda x: functional_call(self.model, params, (x,))

    def variables(self) -> tuple[tuple[Tensor, ...], Params]:
        """The start and the outer parameters, to be differentiated in."""
        start = tuple(p.detach().requires_grad_() for p in self.model.parameters())
        return start, {n: v.detach().requires_grad_() for n, v in self.outer.items()}

    def double(self) -> "Case":
        """The same numbers in float64, for the reference."""

        def raised(batch: Batch) -> Batch:
            return {n: v.double() if v.is_floating_point() else v for n, v in batch.items()}

        pairs = [(raised(inner), raised(outer)) for inner, outer in self.episodes]
        model = copy.deepcopy(self.model).double()
        return replace(self, model=model, outer=raised(self.outer), episodes=pairs)


class Values(nn.Module):
    """The outer parameters as a module, for libraries that want one."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.values = nn.ParameterList(v.detach().clone() for v in case.outer.values())
        self.named = dict(zip(case.outer, self.values, strict=True))


def over_episodes(case: Case, one: Callable[[Batch, Batch], Sequence[Tensor]]) -> Implementation:
    """The mean over episodes of the gradients that `one` returns for one of them."""

    def hypergradient() -> Params:
        grads = [one(*pair) for pair in case.episodes]
        means = [sum(parts) / len(parts) for parts in zip(*grads, strict=True)]
        return dict(zip(case.names, means, strict=True))

    return hypergradient


def assemble(
    overrides: Sequence[str],
    source: dict[str, Any],
    plain: Callable[[], nn.Module],
    inner_loss: Loss,
    outer_loss: Loss,
    kind: str,
) -> Case:
    """Builds the run that `bilevel-run` would, and shows its problem to the peers.

    Args:
        overrides: As on the command line of `bilevel-run`.
        source: The data node: a class of `benchmarks.data` and its arguments.
        plain: Makes the model, of which the peers get a copy with torch's own layers.
        inner_loss: f, in plain torch.
        outer_loss: F, in plain torch.
        kind: As of `Case`.
    """
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=list(overrides))
    OmegaConf.update(config, "data", source, merge=False, force_add=True)
    with tempfile.TemporaryDirectory() as folder:
        run = build(config, resolved(config), Path(folder), {})
    task, loop, method = run.experiment.task, run.experiment.loop, run.experiment.method
    state, device, solver = run.state, run.machine.device, config.solver
    random = generator(0, "benchmark", device)
    with torch.no_grad():
        data = episodes.sample(task, method, config.inner_steps, random, random)
        data = data._replace(noise=method.draw(state.outer, random))
    many = data if task.episodes else StepData(*trees.map_leaves(lambda x: x[None], data))
    pairs = [
        ({n: v[e, 0] for n, v in many.inner.items()}, {n: v[e] for n, v in many.outer.items()})
        for e in range(task.episodes or 1)
    ]
    start = loop.fresh(state.outer, episodes.first(many))["inner"]
    learned = all(name.startswith(LEARNED_PREFIX) for name in state.outer)
    model = plain().to(device, next(iter(start.values())).dtype)
    model.load_state_dict({name: value.detach() for name, value in start.items()})
    usual = _of_torch(model)

    @torch.no_grad()
    def estimate() -> Estimate:
        return run.estimate(state.outer, data, state.carry)

    def ours() -> Params:
        return {n.removeprefix(LEARNED_PREFIX): g for n, g in estimate().grad.items()}

    linear = config.method.get("linear_solver", {})
    return Case(
        kind=kind,
        model=usual,
        ours_inside=model if any(isinstance(m, tuple(OWN)) for m in model.modules()) else None,
        outer={} if learned else state.outer,
        episodes=pairs,
        inner_loss=inner_loss,
        outer_loss=outer_loss,
        steps=config.inner_steps,
        lr=solver.lr,
        momentum=solver.get("momentum", 0.0),
        solver=linear.get("_target_", "").rpartition(".")[2],
        products=linear.get("max_steps", 0),
        ours=ours,
        metrics=lambda: {n: float(v) for n, v in estimate().metrics.items()},
    )


OWN: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    MaxPool2x2: lambda layer: nn.MaxPool2d(2),
    AvgPool2x2: lambda layer: nn.AvgPool2d(2),
    BatchNorm2d: lambda layer: _recast(layer, nn.BatchNorm2d),
}


def _of_torch(model: nn.Module) -> nn.Module:
    """A copy with torch's layers, which users of the peers have, for this project's."""
    model = copy.deepcopy(model)
    for part in list(model.modules()):
        for name, child in part.named_children():
            if type(child) in OWN:
                setattr(part, name, OWN[type(child)](child))
    return model


def _recast(layer: nn.Module, kind: type[nn.Module]) -> nn.Module:
    layer.__class__ = kind  # with its parameters
    return layer
