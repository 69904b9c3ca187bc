"""A bilevel problem with a closed form, to learn and to debug on."""

import torch
from torch import Tensor

from bilevel_cli.core import dense, draws
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Batch, StepData
from bilevel_cli.core.task import Task
from bilevel_cli.core.trees import Params


class Quadratic(Task):
    """f = z'Az/2 - z'B lambda,  F = |z - target|^2 / 2,  so z* = A^-1 B lambda.

    A has eigenvalues between 1 and 5. Scores: the outer loss at z*(lambda), the norm of the
    hypergradient there, and the relative distance of the last inner iterate to z*.

    Args:
        inner_dim: Dimension of z.
        outer_dim: Dimension of lambda.
        noise: Relative noise of the coupling B in each inner minibatch.
        device: Where the problem lives.
        generator: Draws A, B and the target.
    """

    def __init__(
        self,
        inner_dim: int,
        outer_dim: int,
        noise: float,
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        for name, size in (("inner_dim", inner_dim), ("outer_dim", outer_dim)):
            if size < 1:
                raise ValueError(f"Quadratic needs {name} >= 1, got {name}={size}.")
        if not 0 <= noise < float("inf"):
            raise ValueError(f"Quadratic needs a finite noise >= 0, got noise={noise}.")
        exact, dtype = torch.float64, torch.get_default_dtype()

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=exact)

        vectors = torch.linalg.qr(normal(inner_dim, inner_dim))[0]
        spectrum = torch.linspace(1.0, 5.0, inner_dim, dtype=exact)
        self.hessian = (vectors * spectrum @ vectors.T).to(device, dtype)
        self.coupling = normal(inner_dim, outer_dim).to(device, dtype)
        self.target = normal(inner_dim).to(device, dtype)
        self.noise = noise

    def init_outer(self, generator: torch.Generator) -> Params:
        return {"lam": torch.zeros_like(self.coupling[0])}

    def sample(self, num_steps: int, generator: torch.Generator) -> StepData:
        noise = draws.normal(num_steps, generator=generator, drawn_in=torch.float64)
        scale = 1 + self.noise * noise
        return StepData({"z": torch.zeros_like(self.target)}, {"scale": scale}, {})

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        z = inner["z"]
        return 0.5 * z @ self.hessian @ z - batch["scale"] * z @ self.coupling @ outer["lam"]

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return 0.5 * (inner["z"] - self.target).square().sum()

    def evaluate(self, loop: InnerLoop, outer: Params, inner: Params) -> dict[str, Tensor]:
        best = dense.solve(self.hessian, self.coupling @ outer["lam"])
        adjoint = dense.solve(self.hessian, best - self.target)
        distance = (inner["z"] - best).norm() / best.norm().clamp(min=1e-12)
        return {
            "value": self.outer_loss({"z": best}, outer, {}),
            "hypergradient_norm": (self.coupling.T @ adjoint).norm(),
            "inner_distance": distance,
        }
