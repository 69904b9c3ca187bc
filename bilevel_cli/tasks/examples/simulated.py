"""Finite sums of random quadratics: stochastic bilevel optimization with a closed form."""

import math

import torch
from torch import Tensor

from bilevel_cli.core.blocks import mean
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Batch
from bilevel_cli.core.trees import Params
from bilevel_cli.core.two_sums import TwoSums

DRAWS = 20


class SimulatedQuadratics(TwoSums):
    """The simulated problem of the bilevel benchmark (Dagreou et al., 2022, arXiv:2201.13409).

    Both losses are means over samples of

        (z' h)^2 / 2 + (x' g)^2 / 2 + (x' u) (v' z) + a' z + d' x

    with standard normal a and d. h is normal; its covariance has eigenvalues from mu to 1, evenly
    spaced in their logarithms, in a random basis. The covariance of g is such a one too, but with
    one eigenvalue zero. u = U S n and v = V n share one standard normal n, so that u v' has the
    mean U S V', where S goes from mu to L_cross, spaced in the same way, and U and V are parts of
    random bases.

    The value function is the quadratic F(z*(x), x). It has a closed form, since the mean of h h'
    over the inner samples is nonsingular. Problems in which it is not convex are drawn anew.

    Scores: the value function at x, the squared norm of its gradient, and |z - z*(x)|^2 of the last
    inner iterate z; in float64, over all samples.

    Minibatches are blocks (`bilevel_cli.core.blocks`): cut once, each drawn once in an epoch.

    Args:
        inner_samples: Samples of the inner loss, at least inner_dim.
        outer_samples: Samples of the outer loss.
        inner_dim: Dimension of z, which begins at 0.
        outer_dim: Dimension of x, which begins at -2 in every entry.
        L_cross: Largest singular value of the mean of u v', > 0.
        mu: Smallest singular value of the mean of u v', and smallest nonzero eigenvalue of the
            covariances, in (0, 1].
        batch_size: Inner samples of an inner step; null for all of them.
        outer_batch_size: Outer samples of an outer step; null for all of them.
        device: Where the problem lives.
        generator: Draws the samples.
    """

    def __init__(
        self,
        inner_samples: int,
        outer_samples: int,
        inner_dim: int,
        outer_dim: int,
        L_cross: float,
        mu: float,
        batch_size: int | None,
        outer_batch_size: int | None,
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        who = "SimulatedQuadratics"
        for name, size, least in (
            ("inner_dim", inner_dim, 1),
            ("outer_dim", outer_dim, 1),
            ("inner_samples", inner_samples, inner_dim),
            ("outer_samples", outer_samples, 1),
        ):
            if size < least:
                raise ValueError(f"{who} needs {name} >= {least}, got {name}={size}.")
        if not 0 < mu <= 1:
            raise ValueError(f"{who} needs mu in (0, 1], got mu={mu}.")
        if not 0 < L_cross < float("inf"):
            raise ValueError(f"{who} needs a finite L_cross > 0, got L_cross={L_cross}.")
        for _ in range(DRAWS):
            f, F = (
                _samples(size, inner_dim, outer_dim, L_cross, mu, generator)
                for size in (inner_samples, outer_samples)
            )
            self.f, self.F = _Mean(f), _Mean(F)
            if self._is_convex():
                break
        else:
            raise ValueError(
                f"{who} needs a value function that is convex, and drew none in {DRAWS} problems. "
                "Lower task.L_cross, or raise task.mu or the numbers of samples."
            )
        self.cut(_to(f, device), _to(F, device), batch_size, outer_batch_size)
        self._start = {"z": torch.zeros(inner_dim, device=device)}
        self.outer_dim, self.device = outer_dim, device

    def init_outer(self, generator: torch.Generator) -> Params:
        return {"x": torch.full((self.outer_dim,), -2.0, device=self.device)}

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        z, x = inner["z"], outer["x"]
        return mean(
            0.5 * (batch["h"] @ z).square()
            + 0.5 * (batch["g"] @ x).square()
            + (batch["u"] @ x) * (batch["v"] @ z)
            + batch["a"] @ z
            + batch["d"] @ x,
            batch,
        )

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return self.inner_loss(inner, outer, batch)

    def evaluate(self, loop: InnerLoop, outer: Params, inner: Params) -> dict[str, Tensor]:
        z, x = inner["z"].double().cpu(), outer["x"].double().cpu()
        best = self.solution(x)
        return {
            "value": self.F.value(best, x),
            "hypergradient_norm2": self.hypergradient(x).square().sum(),
            "inner_distance2": (z - best).square().sum(),
        }

    def solution(self, x: Tensor) -> Tensor:
        """z*(x), float64 as x."""
        return -torch.linalg.solve(self.f.A, self.f.C.T @ x + self.f.a)

    def hypergradient(self, x: Tensor) -> Tensor:
        """The gradient of F(z*(x), x), float64 as x."""
        z = self.solution(x)
        adjoint = torch.linalg.solve(self.f.A, self.F.inner_slope(z, x))
        return self.F.outer_slope(z, x) - self.f.C @ adjoint

    def _is_convex(self) -> bool:
        # The hypergradient is affine in x: its differences are the columns of the Hessian.
        zero = torch.zeros_like(self.f.d)
        axes = torch.eye(len(zero)).to(zero)
        origin = self.hypergradient(zero)
        hessian = torch.stack([self.hypergradient(axis) - origin for axis in axes])
        return bool(torch.linalg.eigvalsh(hessian)[0] > 0)


class _Mean:
    """The mean over all samples, z'Az/2 + x'Dx/2 + x'Cz + a'z + d'x, in float64."""

    def __init__(self, samples: Batch) -> None:
        h, g, u, v, a, d = (samples[name].double() for name in ("h", "g", "u", "v", "a", "d"))
        self.A, self.D, self.C = h.T @ h / len(h), g.T @ g / len(g), u.T @ v / len(u)
        self.a, self.d = a.mean(0), d.mean(0)

    def value(self, z: Tensor, x: Tensor) -> Tensor:
        quadratic = 0.5 * z @ self.A @ z + 0.5 * x @ self.D @ x + x @ self.C @ z
        return quadratic + self.a @ z + self.d @ x

    def inner_slope(self, z: Tensor, x: Tensor) -> Tensor:
        return self.A @ z + self.C.T @ x + self.a

    def outer_slope(self, z: Tensor, x: Tensor) -> Tensor:
        return self.D @ x + self.C @ z + self.d


def _samples(
    count: int,
    inner_dim: int,
    outer_dim: int,
    L_cross: float,
    mu: float,
    generator: torch.Generator,
) -> Batch:
    """The vectors of each sample; its matrices have rank one. Made in float64, and rounded last."""
    exact = torch.float64

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=exact)

    def basis(dim: int) -> Tensor:
        return torch.linalg.qr(normal(dim, dim))[0]

    def between(low: float, high: float, steps: int) -> Tensor:
        return torch.logspace(math.log10(low), math.log10(high), steps, dtype=exact)

    inner_spectrum = between(mu, 1.0, inner_dim)
    outer_spectrum = torch.cat([torch.zeros(1, dtype=exact), between(mu, 1.0, outer_dim - 1)])
    common = min(inner_dim, outer_dim)
    shared = normal(count, common)
    samples = {
        "h": normal(count, inner_dim) * inner_spectrum.sqrt() @ basis(inner_dim).T,
        "g": normal(count, outer_dim) * outer_spectrum.sqrt() @ basis(outer_dim).T,
        "u": shared * between(mu, L_cross, common) @ basis(outer_dim)[:, :common].T,
        "v": shared @ basis(inner_dim)[:, :common].T,
        "a": normal(count, inner_dim),
        "d": normal(count, outer_dim),
    }
    return {name: value.to(torch.get_default_dtype()) for name, value in samples.items()}


def _to(samples: Batch, device: torch.device) -> Batch:
    return {name: value.to(device) for name, value in samples.items()}
