"""What a hypergradient estimate is said to be, as references that share no code with the methods.

`bilevel-check` holds every method to its own claim. References are central differences in float64,
and dense matrices of them: slow, and hard to get wrong.

A reference takes a trial, changes nothing of it, and returns a tree of the shapes of `Trial.outer`
on the same device. Each may raise `Chaotic`. In shapes, n is the number of entries of all inner
parameters.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from bilevel_cli.core import autodiff, constants, trees
from bilevel_cli.core.claim import NoSolution, Reference, Trial
from bilevel_cli.core.problem import follows_loss, inner_field
from bilevel_cli.core.solver import SolverState
from bilevel_cli.core.trees import Params

STEP = 1e-5  # of central differences: error of order 1e-10, rounding of order 1e-11
LARGEST = 2000  # inner parameters of which a dense Hessian is taken
FEW = 64  # entries up to which derivatives are differenced one by one

# A slope is believed where the next smaller step finds it again, to a share of its length and to
# what rounding may make of it: so many roundings of the function's value, over the step.
STEPS = (STEP, STEP / 10, STEP / 100)
AGREE, ROUNDINGS = 3e-7, 100.0

Curvature = Callable[[Trial, Params], Tensor]  # the dense J^T [n, n], or another matrix

_doubts: list[float] | None = None


def unrolled(trial: Trial) -> Params:
    """The derivative of F(z_K(lambda), lambda), through the start and all K steps."""

    def loss(outer: Params) -> Tensor:
        loop, data = trial.loop, trial.data
        state = loop.run(loop.begin(outer, data, trial.carry["inner"]), outer, data)
        return loop.problem.outer_loss(state["inner"], outer, data.outer)

    return differenced(loss, trial.outer)


def implicit(inverse: Callable[[Tensor], Tensor], curvature: Curvature | None = None) -> Reference:
    """d_lambda F - (d_lambda G)^T inverse(J^T) d_z F at the last inner iterate.

    G is the inner field, mostly d_z f, and J = d_z G, which is then the Hessian of f.

    Args:
        inverse: What stands for the inverse, [n, n], as a function of the dense J^T [n, n].
        curvature: What stands for J^T; None for itself.

    Raises:
        NoSolution: J is too large, or too close to singular for `inverse`.
    """

    def reference(trial: Trial) -> Params:
        return implicit_at(trial, trial.last, inverse, curvature)

    return reference


def solution(trial: Trial) -> Params:
    """The hypergradient of the bilevel problem itself: the implicit one at the inner solution.

    The inner problem is the one that the solver minimises: its weight decay is part of the loss of
    `trial.loop.problem`, and its set bounds z.

    Raises:
        NoSolution: The inner problem has none that Newton's method finds, or not an isolated one.
    """
    return implicit_at(trial, minimiser(trial), torch.linalg.inv)


def implicit_at(
    trial: Trial,
    inner: Params,
    inverse: Callable[[Tensor], Tensor],
    curvature: Curvature | None = None,
) -> Params:
    """The implicit hypergradient at `inner`, with the dense J^T of the entries free to move.

    Args:
        trial: The trial, for everything but the inner parameters.
        inner: The inner parameters.
        inverse: As in `implicit`, which also says what it raises.
        curvature: As there.
    """
    derivatives = autodiff.grad(trial.loop.problem.outer_loss, (0, 1))
    direct, cross_by = derivatives(inner, trial.outer, trial.data.outer)
    rhs, free = trees.ravel(direct)[0], _free(trial, inner)
    # Entries that a set holds do not respond: for them J is the identity, and d_z F zero.
    matrix = (curvature or transposed_jacobian)(trial, inner)
    matrix = free[:, None] * matrix * free + torch.diag(1 - free)
    adjoint = free * (inverse(matrix) @ (free * rhs))

    def tilt(outer: Params) -> Tensor:
        return _field(trial, inner, outer) @ adjoint

    return trees.axpy(-1.0, differenced(tilt, trial.outer), cross_by)


def transposed_jacobian(trial: Trial, inner: Params) -> Tensor:
    """J^T of the inner field at `inner`, [n, n], by central differences. Mostly the Hessian of f.

    What is `constants.held` keeps its value.

    Raises:
        NoSolution: There are more than `LARGEST` inner parameters.
    """
    flat, unravel = trees.ravel(inner)
    if len(flat) > LARGEST:
        raise NoSolution(f"{len(flat)} inner parameters are too many for a dense Hessian")

    field = constants.frozen(lambda vector: _field(trial, unravel(vector), trial.outer), flat)
    rows = [
        (field(flat + STEP * axis) - field(flat - STEP * axis)) / (2 * STEP)
        for axis in torch.eye(len(flat), dtype=flat.dtype, device=flat.device)
    ]
    matrix = torch.stack(rows)
    return (matrix + matrix.T) / 2 if follows_loss(trial.loop.problem) else matrix


def _field(trial: Trial, inner: Params, outer: Params) -> Tensor:
    """The inner field, mostly d_z f, flat, on the minibatch of the trial."""
    return trees.ravel(inner_field(trial.loop.problem, inner, outer, trial.data.inner_at(-1)))[0]


def minimiser(trial: Trial) -> Params:
    """The inner solution near the last iterate, a root of the inner field, by damped Newton steps.

    Within a set, by projected steps on the entries that neither a bound nor the gradient holds
    there (Bertsekas, 1982); the solution has a projected gradient of zero.

    Raises:
        NoSolution: There is none, or the solver looks for something else.
    """
    if trial.loop.solver.no_minimiser:
        raise NoSolution(f"the inner solver has {trial.loop.solver.no_minimiser}")
    minimised = follows_loss(trial.loop.problem)
    sought = "minimiser" if minimised else "root"
    flat, unravel = trees.ravel(_projected(trial, trial.last))

    def field(vector: Tensor) -> Tensor:
        return _field(trial, unravel(vector), trial.outer)

    def moved(vector: Tensor) -> Tensor:
        return trees.ravel(_projected(trial, unravel(vector)))[0]

    def unsolved(vector: Tensor) -> Tensor:
        gradient = field(vector)
        bounded = trial.loop.solver.within is not None
        return vector - moved(vector - gradient) if bounded else gradient

    scale = 1 + field(torch.zeros_like(flat)).norm()
    for _ in range(50):
        gradient, matrix = field(flat), transposed_jacobian(trial, unravel(flat))
        # Held: on a bound, where a step along the gradient would not leave it.
        free = torch.maximum(_free(trial, unravel(flat)), (unsolved(flat) != 0).to(flat))
        matrix = free[:, None] * matrix * free + torch.diag(1 - free)
        least = torch.linalg.eigvalsh(matrix)[0] if minimised else torch.linalg.svdvals(matrix)[-1]
        if not least > 1e-8 * matrix.norm():
            raise NoSolution(f"the inner problem has no isolated {sought}")
        left = unsolved(flat).norm()
        if left <= 1e-11 * scale:
            return unravel(flat)
        step = torch.linalg.solve(matrix.T, free * gradient)
        while unsolved(moved(flat - step)).norm() > left:
            step = step / 2
            if step.norm() <= 1e-14 * (1 + flat.norm()):
                if minimised or left <= 1e-8 * scale:
                    return unravel(flat)
                raise NoSolution("Newton's method finds no root of the inner field")
        flat = moved(flat - step)
    raise NoSolution(f"Newton's method finds no {sought} of the inner problem")


def _projected(trial: Trial, inner: Params) -> Params:
    within = trial.loop.solver.within
    return inner if within is None else within.project(inner)


def _free(trial: Trial, inner: Params) -> Tensor:
    """1 for each entry of `inner` that the solver's set lets move, flat."""
    free = trial.loop.free(inner)
    return torch.ones_like(trees.ravel(inner)[0]) if free is None else trees.ravel(free)[0]


class Chaotic(Exception):
    """No finite difference is the derivative: steps of two sizes disagree, or there is a kink."""


@contextlib.contextmanager
def doubts() -> Iterator[list[float]]:
    """Within this context, collects by how much each finite difference may be off, as a length."""
    global _doubts
    before, _doubts = _doubts, []
    try:
        yield _doubts
    finally:
        _doubts = before


def differenced(fn: Callable[[Params], Tensor], params: Params) -> Params:
    """The gradient of scalar `fn` at `params`, by central differences.

    What is `constants.held` keeps its value. With more than `FEW` entries, differences are taken
    along `FEW` // 4 random directions only, and across them the gradient is that of reverse mode:
    an error of an estimate is seen along the random directions.

    Returns:
        A tree of the shapes of `params`.

    Raises:
        AssertionError: Reverse mode and differences disagree.
        Chaotic: Differences of two step sizes disagree.
    """
    flat, unravel = trees.ravel(params)
    fn = constants.frozen(fn, params)

    def value(vector: Tensor) -> Tensor:
        return fn(unravel(vector))

    if len(flat) <= FEW:
        axes = torch.eye(len(flat), dtype=flat.dtype, device=flat.device)
        return unravel(_slopes(value, flat, axes))
    vector = trees.ravel(autodiff.grad(fn)(params))[0]
    drawn = torch.randn(len(flat), FEW // 4, generator=torch.Generator().manual_seed(0))
    directions = torch.linalg.qr(drawn.to(flat))[0].T
    gap = _slopes(value, flat, directions) - directions @ vector
    assert gap.norm() <= 1e-6 * vector.norm() + 1e-9, (
        "Reverse mode and central differences disagree"
    )
    return unravel(vector + directions.T @ gap)


def _slopes(fn: Callable[[Tensor], Tensor], at: Tensor, directions: Tensor) -> Tensor:
    """The derivatives of scalar `fn` at `at` [n] along directions [m, n], of shape [m].

    Raises:
        Chaotic: They depend on the step.
    """
    here = fn(at)

    def sides(step: float) -> tuple[Tensor, Tensor]:
        """The slopes, and how far they differ to either side: h |f''|, or the jump at a kink."""
        ahead, behind = (
            torch.stack([fn(at + side * direction) for direction in directions])
            for side in (step, -step)
        )
        return (ahead - behind) / (2 * step), (ahead - 2 * here + behind).abs() / step

    def rounding(step: float) -> float:
        eps = torch.finfo(at.dtype).eps
        return ROUNDINGS * eps * float(here.abs()) / step * math.sqrt(len(directions))

    slopes, jumps = sides(STEPS[0])
    gap = math.nan
    for step, smaller in pairwise(STEPS):
        finer, finer_jumps = sides(smaller)
        gap, length = float((slopes - finer).norm()), float(slopes.norm())
        allowed = AGREE * length + rounding(smaller)
        # Where fn is smooth, a tenth of the step leaves a tenth of the jump.
        kinks = torch.where(finer_jumps > jumps / 2, finer_jumps, 0.0)
        if gap <= allowed and float(kinks.norm()) <= allowed:
            if _doubts is not None:
                _doubts.append(gap + rounding(step))
            return slopes
        slopes, jumps = finer, finer_jumps
    raise Chaotic(
        f"no finite difference tells the derivative: steps of {STEPS[-2]:g} and {STEPS[-1]:g} find "
        f"slopes {gap:.1e} apart, of length {float(slopes.norm()):.1e}, or a kink. Lower solver.lr "
        "or inner_steps, or take another seed."
    )


def state_after(trial: Trial, steps: int) -> SolverState:
    """The solver's state after the first `steps` inner steps of the trial."""
    loop, data = trial.loop, trial.data
    state = loop.begin(trial.outer, data, trial.carry["inner"])
    return loop.run(state, trial.outer, data, last=steps)
