"""Copies of a method, each with one fault that only a GPU shows, for the tests of `pairs.check`.

On a CPU every one of them gives the numbers of `Reverse`, or numbers of the same worth.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bilevel_cli.core import trees
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Carry, Estimate
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.reverse import Reverse


@dataclass(frozen=True)
class Mutant(Reverse):
    """Reverse-mode differentiation with something done to what it returns."""

    def estimate(self, loop: InnerLoop, outer: Params, data: StepData, carry: Carry) -> Estimate:
        found = super().estimate(loop, outer, data, carry)
        return found._replace(grad=trees.map_leaves(self.changed, found.grad))

    def changed(self, x: Tensor) -> Tensor:
        return x


class AsksForAValue(Mutant):
    def changed(self, x: Tensor) -> Tensor:
        return x if x.sum().item() > 0 else 1 * x


class LooksIntoATensor(Mutant):
    def changed(self, x: Tensor) -> Tensor:
        return x if (x > 0).any() else 1 * x


class SelectsByAMask(Mutant):
    def changed(self, x: Tensor) -> Tensor:
        return x + 0 * x[x == x].sum()


class MixesDevices(Mutant):
    def changed(self, x: Tensor) -> Tensor:
        return x * torch.ones(x.shape)


class DrawsOnTheHost(Mutant):
    def changed(self, x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return x + 0 * torch.rand(x.shape, generator=generator, device=x.device)


class DrawsFromAllGenerators(Mutant):
    def changed(self, x: Tensor) -> Tensor:
        return x + 0 * torch.rand_like(x)


class CopiesANumberFromTheHost(Mutant):
    def changed(self, x: Tensor) -> Tensor:
        return x * torch.tensor(1.0, device=x.device)


class PinsMemory(Mutant):
    def changed(self, x: Tensor) -> Tensor:
        return x * torch.ones(x.shape).pin_memory().to(x.device, non_blocking=True)


class RewritesPinnedMemory(Mutant):
    def changed(self, x: Tensor) -> Tensor:
        one = torch.ones(x.shape).pin_memory()
        there = one.to(x.device, non_blocking=True)
        one.zero_()
        return x * (there if x.device.type == "cuda" else 1)


class ReadsACopyTooEarly(Mutant):
    def changed(self, x: Tensor) -> Tensor:
        mean = x.mean()
        return x + 1e-3 * float(mean.to("cpu", non_blocking=True)) - 1e-3 * mean


@dataclass(frozen=True)
class RemembersBesidesItsCarry(Mutant):
    """What it keeps is on memory that no graph computes again."""

    kept: list[Tensor] = field(default_factory=list)

    def changed(self, x: Tensor) -> Tensor:
        last = self.kept.pop() if self.kept else x
        self.kept.append(x.clone())
        return x + 0.1 * last


@dataclass(frozen=True)
class CountsItsCalls(Mutant):
    """A graph holds the number that it was recorded with."""

    calls: list[None] = field(default_factory=list)

    def changed(self, x: Tensor) -> Tensor:
        self.calls.append(None)
        return x / len(self.calls)


class DoesNotRepeat(Mutant):
    def changed(self, x: Tensor) -> Tensor:
        return x + 0 * x.cumsum(0)


class ReportsFromTheHost(Mutant):
    def estimate(self, loop: InnerLoop, outer: Params, data: StepData, carry: Carry) -> Estimate:
        found = super().estimate(loop, outer, data, carry)
        return found._replace(metrics={"reported": torch.zeros(())})


class IsWrongOnADevice(Mutant):
    def changed(self, x: Tensor) -> Tensor:
        return x if x.device.type == "cpu" else (1 + 1e-5) * x


class AllocatesTooMuch(Mutant):
    def changed(self, x: Tensor) -> Tensor:
        size = 2**20 if x.device.type == "cpu" else 2**46
        return x + 0 * torch.empty(size, dtype=torch.uint8, device=x.device)[0]


# What the check says of each.
FAULTS: dict[Callable[..., Mutant], str] = {
    AsksForAValue: "an outer step waits: .*mutants.py",
    LooksIntoATensor: "an outer step waits: .*mutants.py",
    SelectsByAMask: "an outer step waits: .*mutants.py",
    MixesDevices: "estimate: RuntimeError: Expected all tensors to be on the same device",
    DrawsOnTheHost: "estimate: RuntimeError: Expected a 'cuda' device type for generator",
    DrawsFromAllGenerators: "outer step: draws from a global generator",
    CopiesANumberFromTheHost: "an outer step waits: .*mutants.py",
    PinsMemory: "no graph can hold",
    RewritesPinnedMemory: "Pinned memory was overwritten before its copy was done",
    ReadsACopyTooEarly: "the estimate is inf off the CPU's",
    RemembersBesidesItsCarry: "the graph is .* off the eager estimate",
    CountsItsCalls: "the graph is .* off the eager estimate",
    DoesNotRepeat: "estimate: RuntimeError: cumsum.* does not have a deterministic implementation",
    ReportsFromTheHost: "estimate: left on the host: metrics",
    IsWrongOnADevice: "the estimate is 1.0e-05 off the CPU's",
    AllocatesTooMuch: "estimate: OutOfMemoryError: CUDA out of memory. Tried to allocate",
}
# A GPU may do these without a complaint, and be wrong only now and then.
SIMULATED_ALONE = (PinsMemory, RewritesPinnedMemory, ReadsACopyTooEarly)
