"""Copies of parts other than methods, each with one fault that only a GPU shows.

Tasks, solvers, starts, models: on a CPU every one of them gives numbers of the same worth as the
part that it copies. The faults of methods are in `mutants.py`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.oracle import Oracle
from bilevel_cli.core.problem import Batch, StepData
from bilevel_cli.core.solver import SolverState
from bilevel_cli.core.start import Start
from bilevel_cli.core.trees import Params
from bilevel_cli.models import Mlp
from bilevel_cli.nn.building import Shape
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.starts.warm import Warm
from bilevel_cli.tasks.examples.quadratic import Quadratic


class SamplesOnTheHost(Quadratic):
    """Draws its data on the CPU, and moves them at every outer step."""

    def sample(self, num_steps: int, generator: torch.Generator) -> StepData:
        data = super().sample(num_steps, generator)
        own = torch.Generator().manual_seed(0)
        noise = torch.randn(num_steps, generator=own).to(self.target)
        return data._replace(inner={"scale": data.inner["scale"] + 0 * noise})


class LooksAtItsOuterParameters(Quadratic):
    def project_outer(self, outer: Params) -> Params:
        return outer if (outer["lam"] > -9).all() else {"lam": outer["lam"].clamp(min=-9)}


class KeepsABufferOnTheHost(Quadratic):
    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        loss = super().outer_loss(inner, outer, batch)
        return loss + 0 * (inner["z"] @ torch.ones(len(self.target)))


class WritesIntoItsData(Quadratic):
    """They may be a view of what the task, or a graph, goes on with."""

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return super().outer_loss(inner, outer, batch) + batch["offset"].add_(1e-3)

    def sample(self, num_steps: int, generator: torch.Generator) -> StepData:
        data = super().sample(num_steps, generator)
        return data._replace(outer={"offset": torch.zeros_like(self.target[0])})


class WritesIntoItsOwnTensors(Quadratic):
    """A graph writes again at each replay."""

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        self.target.mul_(1.001)
        return super().outer_loss(inner, outer, batch)


class ScoresWithGlobalNumbers(Quadratic):
    def evaluate(self, loop: InnerLoop, outer: Params, inner: Params) -> dict[str, Tensor]:
        scores = super().evaluate(loop, outer, inner)
        return scores | {"value": scores["value"] + 0 * torch.rand_like(scores["value"])}


class ScoresWithNumbersOfTheHost(Quadratic):
    def evaluate(self, loop: InnerLoop, outer: Params, inner: Params) -> dict[str, Tensor]:
        scores, own = super().evaluate(loop, outer, inner), torch.Generator()
        z = inner["z"]
        return scores | {"noise": torch.rand(z.shape, generator=own, device=z.device).sum()}


class SavesATensorOfTheDevice(Quadratic):
    """The file cannot be read where there is no GPU."""

    def save_result(self, directory: Path, outer: Params, inner: Params) -> list[Path]:
        torch.save(outer["lam"].detach(), directory / "outer.pt")
        return [directory / "outer.pt"]


class SavesAnArray(Quadratic):
    def save_result(self, directory: Path, outer: Params, inner: Params) -> list[Path]:
        (directory / "outer.txt").write_text(str(outer["lam"].numpy()))
        return [directory / "outer.txt"]


class ComputesInHalfThePrecision(Quadratic):
    """As a kernel would that has no float64."""

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        if self.target.device.type == "cpu":
            return super().outer_loss(inner, outer, batch)
        return super().outer_loss({"z": inner["z"].float()}, outer, batch).float()


@dataclass(frozen=True)
class CountsOnTheHost(GradientDescent):
    """Operations take one number of the CPU, and a graph takes that of its recording."""

    def init(self, inner: Params) -> SolverState:
        state: Any = {"inner": inner, "count": {"steps": torch.zeros(())}}
        return state

    def step(self, oracle: Oracle, state: SolverState) -> SolverState:
        memory: Any = state
        count = {"steps": memory["count"]["steps"] + 1}
        found: Any = {**super().step(oracle, state), "count": count}
        return found


@dataclass(frozen=True)
class KeepsAFloat(Warm):
    """A graph has the number of its recording."""

    last: list[float] = field(default_factory=lambda: [0.0])

    def __call__(self, fresh: SolverState, outer: Params, previous: SolverState) -> SolverState:
        self.last[0] += 1e-3
        inner = {name: value + self.last[0] for name, value in previous["inner"].items()}
        return {**previous, "inner": inner}


@dataclass(frozen=True)
class AsksForAFloat(Start):
    remembers = True

    def __call__(self, fresh: SolverState, outer: Params, previous: SolverState) -> SolverState:
        inner = {n: x * (1 + 0 * float(x.detach().sum())) for n, x in previous["inner"].items()}
        return {**previous, "inner": inner}


class HasATensorThatDoesNotMove(Mlp):
    """An attribute, and no buffer of the module."""

    def __init__(
        self, width: int, depth: int, activation: str, input_shape: Shape, num_outputs: int
    ) -> None:
        super().__init__(width, depth, activation, input_shape, num_outputs)
        self.shift = torch.zeros(self.head.out_features)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.shift


# The small run that has a part of some group, where it is not the usual one.
BASES = {"model": "task=hpo model=mlp"}
# What the check says of each, by the setting of the command line that names it.
FAULTS: dict[str, str] = {
    "task=SamplesOnTheHost": "an outer step waits: .*mutant_parts.py",
    "task=LooksAtItsOuterParameters": "an outer step waits: .*mutant_parts.py",
    "task=KeepsABufferOnTheHost": "estimate: RuntimeError: Expected all tensors",
    "task=WritesIntoItsData": "off the eager estimate|off the CPU's",
    "task=WritesIntoItsOwnTensors": "off the eager estimate",
    "task=ScoresWithGlobalNumbers": "run: draws from a global generator",
    "task=ScoresWithNumbersOfTheHost": "run: RuntimeError: Expected a 'cuda' device type",
    "task=SavesATensorOfTheDevice": "run: left in outer.pt on the device",
    "task=SavesAnArray": "run: TypeError: can't convert cuda",
    "task=ComputesInHalfThePrecision": "off the CPU's|has other types",
    "solver=CountsOnTheHost": "left on the host: carry",
    "start=KeepsAFloat": "the graph is .* off the eager estimate",
    "start=AsksForAFloat": "an outer step waits: .*mutant_parts.py",
    "model=HasATensorThatDoesNotMove": "A model needs its tensors on cuda:0",
}
