"""Bilevel problems whose hypergradient is known in closed form, and what tests ask of a problem.

`seeded` draws, `estimate` takes one estimate, `central_difference` is a gradient that knows no
derivative, and `mean_over_blocks` is what minibatches should amount to.
"""

from typing import Any

import torch
from torch import Tensor

from bilevel_cli.core import trees
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Estimate, Hypergradient
from bilevel_cli.core.problem import Batch, StepData
from bilevel_cli.core.random import Stream
from bilevel_cli.core.solver import InnerSolver
from bilevel_cli.core.start import Start
from bilevel_cli.core.trees import Params
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.starts.cold import Cold
from bilevel_cli.tasks.examples.simulated import SimulatedQuadratics


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Plane:
    """f = y'Ay/2 - y'Bx,  F = |y - c|^2 / 2 + rho |x|^2 / 2, in the plane.

    The two-dimensional problem on which all methods have exact answers in rational numbers.
    """

    A = torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    B = torch.tensor([[1.0, 0.0], [2.0, 1.0]], dtype=torch.float64)
    c = torch.tensor([1.0, -1.0], dtype=torch.float64)
    x = torch.tensor([1.0, 2.0], dtype=torch.float64)
    rho = 0.5

    def init_inner(self, outer: Params, data: StepData) -> Params:
        return data.init

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        y = inner["y"]
        return 0.5 * y @ self.A @ y - y @ self.B @ outer["x"]

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        distance = (inner["y"] - self.c).square().sum()
        return 0.5 * distance + 0.5 * self.rho * outer["x"].square().sum()

    def data(self, steps: int, start: tuple[float, float] = (0.0, 1.0)) -> StepData:
        return StepData({"y": torch.tensor(start)}, {"unused": torch.zeros(steps)}, {})


class Quadratic:
    """f = z'Az/2 - scale z'B lambda,  F = |z - target|^2 / 2,  so z* = A^-1 B lambda.

    A has eigenvalues between 1 and 5, so gradient descent with lr 0.1 contracts by 0.9 at most.
    """

    def __init__(self, inner_dim: int = 6, outer_dim: int = 3) -> None:
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        vectors = torch.linalg.qr(normal(inner_dim, inner_dim))[0]
        spectrum = torch.linspace(1.0, 5.0, inner_dim, dtype=torch.float64)
        self.hessian = vectors * spectrum @ vectors.T
        self.coupling = normal(inner_dim, outer_dim)
        self.target = normal(inner_dim)

    def init_inner(self, outer: Params, data: StepData) -> Params:
        return data.init

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        z = inner["z"]
        return 0.5 * z @ self.hessian @ z - batch["scale"] * z @ self.coupling @ outer["lam"]

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return 0.5 * (inner["z"] - self.target).square().sum()

    def outer_init(self) -> Params:
        return {"lam": torch.ones_like(self.coupling[0])}

    def data(self, num_steps: int) -> StepData:
        return StepData({"z": torch.zeros_like(self.target)}, {"scale": torch.ones(num_steps)}, {})

    def hypergradient(self, outer: Params) -> Params:
        solution = torch.linalg.solve(self.hessian, self.coupling @ outer["lam"])
        adjoint = torch.linalg.solve(self.hessian, solution - self.target)
        return {"lam": self.coupling.T @ adjoint}


class Several(Quadratic):
    """Three quadratics that differ in start, coupling and target."""

    episodes = 3

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return 0.5 * (inner["z"] - batch["target"]).square().sum()

    def data(self, num_steps: int) -> StepData:
        init, target = torch.randn(2, 3, 6)
        scale = 1 + 0.5 * torch.randn(3, num_steps)
        return StepData({"z": init}, {"scale": scale}, {"target": target})


def simulated(seed: int = 0, **changes: Any) -> SimulatedQuadratics:
    """A small one, in minibatches that do not divide its samples."""
    settings: dict[str, Any] = {
        "inner_samples": 60,
        "outer_samples": 50,
        "inner_dim": 6,
        "outer_dim": 3,
        "L_cross": 0.1,
        "mu": 0.1,
        "batch_size": 8,
        "outer_batch_size": 7,
        **changes,
    }
    return SimulatedQuadratics(**settings, device=torch.device("cpu"), generator=seeded(seed))


def estimate(
    method: Hypergradient[Any],
    problem: Any,
    data: StepData,
    outer: Params,
    start: Start | None = None,
    solver: InnerSolver[Any] | None = None,
) -> Estimate:
    """One estimate by `method`, from its own first carry, by default with cold GD at lr 0.1."""
    loop = InnerLoop(problem, solver or GradientDescent(lr=0.1), start or Cold())
    return method.estimate(loop, outer, data, method.init(outer, loop.fresh(outer, data)))


def central_difference(fn: Any, params: Params, step: float = 1e-5) -> Params:
    """The gradient of scalar `fn` at `params`, entry by entry; error of order step^2."""
    flat, unravel = trees.ravel(params)
    slopes = [
        (fn(unravel(flat + step * axis)) - fn(unravel(flat - step * axis))) / (2 * step)
        for axis in torch.eye(len(flat), dtype=flat.dtype)
    ]
    return unravel(torch.stack(slopes))


def mean_over_blocks(task: Any, inner: Params, outer: Params) -> tuple[Tensor, Tensor]:
    """Both losses of a task at minibatches, averaged over one epoch of their blocks."""
    sums = [torch.zeros(()), torch.zeros(())]
    source, (inner_count, outer_count) = Stream(), task.blocks
    seen: tuple[set[int], set[int]] = (set(), set())
    for _ in range(inner_count * outer_count):
        data = task.sample(1, source)
        sums[0] += task.inner_loss(inner, outer, data.inner_at(0))
        sums[1] += task.outer_loss(inner, outer, data.outer)
        seen[0].add(int(data.inner["block"][0]))
        seen[1].add(int(data.outer["block"]))
    assert tuple(map(len, seen)) == task.blocks
    return sums[0] / (inner_count * outer_count), sums[1] / (inner_count * outer_count)
