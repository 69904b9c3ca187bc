"""What the score estimate of a chain is in the mean, where the law of the chain is Gaussian.

That is where an inner step is affine in z and in its random numbers, and where F, d_lambda F and
d_lambda f are quadratic in z. All are read from values at points, so that nothing here is shared
with the estimate. In shapes, n is the number of inner parameters and p that of outer ones.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.claim import NoSolution, Reference, Trial
from bilevel_cli.core.trees import Params

LARGEST = 40  # inner parameters: an interpolation takes n^2 / 2 values
EXACT = 1e-7  # relative error up to which a function is the polynomial through its values


class Quadratics(NamedTuple):
    """Functions v_j(z) = value_j + slope_j . z + z . curvature_j z / 2."""

    value: Tensor  # [p]
    slope: Tensor  # [p, n]
    curvature: Tensor  # [p, n, n]

    def at(self, z: Tensor) -> Tensor:
        """The values at z, [p]."""
        bent = torch.einsum("pij,i,j->p", self.curvature, z, z)
        return self.value + self.slope @ z + bent / 2

    def slopes(self, z: Tensor) -> Tensor:
        """The gradients at z, [p, n]."""
        return self.slope + self.curvature @ z

    def mean(self, mean: Tensor, covariance: Tensor) -> Tensor:
        """The expectations, [p], where z is normal."""
        return self.at(mean) + torch.einsum("pij,ij->p", self.curvature, covariance) / 2


def expected_score(first: Callable[[int], int]) -> Reference:
    """The mean of E_t d_lambda F - Cov_t(F, d_lambda f) / tau over all chains, E_t over samples.

    Args:
        first: The number of the first sample, from the number of inner steps.

    Raises:
        NoSolution: The law of the chain is not Gaussian, or a loss is not quadratic.
    """

    def reference(trial: Trial) -> Params:
        steps = trial.data.num_steps
        tau = trial.loop.solver.temperature
        assert tau is not None, "the estimate has refused it"
        losses, slopes, directs = _losses(trial)
        means, joint = _law(trial, first(steps), steps)
        count = len(means)
        own = [joint[t, t] for t in range(count)]
        direct, slope, loss = (
            torch.stack([fn.mean(*law) for law in zip(means, own, strict=True)])
            for fn in (directs, slopes, losses)
        )
        # Of F at z_t with the slope at z_s: that of their linear and of their bent parts.
        tilts = torch.stack([losses.slopes(mean)[0] for mean in means])
        tilted = torch.stack([slopes.slopes(mean) for mean in means])
        weight = (torch.eye(count).to(loss) - 1 / count) / (count - 1)
        bends = losses.curvature[0], joint, slopes.curvature, joint, weight
        covariance = (
            torch.einsum("ti,sp,ts->p", loss, slope, weight)
            + torch.einsum("ti,tsij,spj,ts->p", tilts, joint, tilted, weight)
            + torch.einsum("ij,tsjk,pkl,tsil,ts->p", *bends) / 2
        )
        return trees.ravel(trial.outer)[1](direct.mean(0) - covariance / tau)

    return reference


def _losses(trial: Trial) -> tuple[Quadratics, Quadratics, Quadratics]:
    """F, d_lambda f and d_lambda F as functions of z."""
    problem, outer, data = trial.loop.problem, trial.outer, trial.data
    flat, unravel = trees.ravel(trial.last)
    if len(flat) > LARGEST:
        raise NoSolution(f"{len(flat)} inner parameters are too many for the law of a chain")

    def loss(z: Tensor) -> Tensor:
        return problem.outer_loss(unravel(z), outer, data.outer)[None]

    def slope(z: Tensor) -> Tensor:
        found = autodiff.grad(problem.inner_loss, 1)(unravel(z), outer, data.inner_at(0))
        return trees.ravel(found)[0]

    def direct(z: Tensor) -> Tensor:
        return trees.ravel(autodiff.grad(problem.outer_loss, 1)(unravel(z), outer, data.outer))[0]

    return _interpolated(loss, flat), _interpolated(slope, flat), _interpolated(direct, flat)


def _interpolated(fn: Callable[[Tensor], Tensor], like: Tensor) -> Quadratics:
    """`fn`, from [n] to [p], as the quadratic through its values at 0, e_i, -e_i and e_i + e_j."""
    axes = torch.eye(len(like), dtype=like.dtype, device=like.device)
    value = fn(torch.zeros_like(like))
    ahead = torch.stack([fn(axis) for axis in axes]) - value
    behind = torch.stack([fn(-axis) for axis in axes]) - value
    curvature = value.new_zeros(len(value), len(like), len(like))
    for i, one in enumerate(axes):
        curvature[:, i, i] = ahead[i] + behind[i]
        for j in range(i):
            curvature[:, i, j] = fn(one + axes[j]) - value - ahead[i] - ahead[j]
            curvature[:, j, i] = curvature[:, i, j]
    found = Quadratics(value, (ahead - behind).T / 2, curvature)
    _confirm(fn, found.at, like)
    return found


def _confirm(fn: Callable[[Tensor], Tensor], found: Callable[[Tensor], Tensor], z: Tensor) -> None:
    """Raises NoSolution where a function is another one than was found of it, at a third point."""
    generator = torch.Generator().manual_seed(0)
    there = torch.randn(z.shape, generator=generator).to(z)
    expected = fn(there)
    if not (found(there) - expected).norm() <= EXACT * (1 + expected.norm()):
        raise NoSolution("the law of a chain is known where f and F are quadratic in z")


def _law(trial: Trial, first: int, last: int) -> tuple[list[Tensor], Tensor]:
    """The means [n] of the samples, and the covariances of each with each, [T, T, n, n]."""
    loop, outer, data = trial.loop, trial.outer, trial.data
    flat, unravel = trees.ravel(trial.last)
    quiet = data._replace(draws=trees.zeros_like(data.draws))
    begun = loop.begin(outer, data, trial.carry["inner"])

    def moved(both: Tensor) -> Tensor:
        """z after one step, from z and the random numbers of the step."""
        z, draws = both.chunk(2)
        given = quiet._replace(draws={n: x[None] for n, x in unravel(draws).items()})
        state = loop.step({**begun, "inner": unravel(z)}, outer, given, 0)
        return trees.ravel(state["inner"])[0]

    zero = torch.zeros(2 * len(flat), dtype=flat.dtype, device=flat.device)
    offset = moved(zero)
    axes = torch.eye(len(zero), dtype=flat.dtype, device=flat.device)
    matrix = torch.stack([moved(axis) - offset for axis in axes], dim=1)
    _confirm(moved, lambda both: matrix @ both + offset, zero)
    along, noise = matrix[:, : len(flat)], matrix[:, len(flat) :]

    mean, covariance = trees.ravel(begun["inner"])[0], zero.new_zeros(len(flat), len(flat))
    means: list[Tensor] = []
    count = last - first
    joint = zero.new_zeros(count, count, len(flat), len(flat))
    for t in range(last):
        if t >= first:
            now = len(means)
            if now:  # with those before, which the step takes along
                joint[now, :now] = along @ joint[now - 1, :now]
                joint[:now, now] = joint[now, :now].mT
            joint[now, now] = covariance
            means.append(mean)
        mean, covariance = along @ mean + offset, along @ covariance @ along.T + noise @ noise.T
    return means, joint
