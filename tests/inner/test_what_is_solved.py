"""The inner problem is the one that the solver solves: closed forms under decay and in a box."""

import contextlib
import itertools
from typing import Any

import pytest
import torch
from configs import class_of, configured, crossed, options
from torch import Tensor

from bilevel_cli.config.objects import parts
from bilevel_cli.core import trees
from bilevel_cli.core.episodes import sample
from bilevel_cli.core.requirements import (
    Requirement,
    a_minimiser,
    a_solution,
    no_constraint,
    start_is_constant,
)
from bilevel_cli.core.trees import Params

DECAY, BOUND = 0.5, 0.2
SMALL = ("task=quadratic", "task.inner_dim=5", "task.outer_dim=3", "task.noise=0", "device=cpu")
SOLVERS = {
    "gd": ("solver=gd",),
    "weight_decay": ("solver=weight_decay", f"solver.weight_decay={DECAY}"),
    "projected": ("solver=projected", f"solver.onto.low={-BOUND}", f"solver.onto.high={BOUND}"),
    # A step within a step: the decay is that of the problem, wherever it is written.
    "both": (
        *("solver=projected", "solver@solver.base=weight_decay"),
        *(f"solver.base.weight_decay={DECAY}", f"solver.onto.low={-BOUND}"),
        f"solver.onto.high={BOUND}",
    ),
}
# With curvature from 1 to 5.5, a step of 0.3 leaves 0.7 of an error at most.
STEP = 0.3
MANY = ("device.dtype=float64", "start=warm", "seed=3", f"suggest.inner_lr={STEP}")
# With which a method's own approximation is exact: enough terms, and no growth of a multiplier.
EXACT: dict[str, tuple[str, ...]] = {
    "neumann": ("method.linear_solver.max_steps=70",),
    # Least squares want a step below sqrt(2) / 5.5.
    "galet": ("method.linear_solver.max_steps=700", "method.linear_solver.step_size=0.2"),
    "implicit": (),
    "stocbio": ("method.series.terms=70",),
    "mrbo": ("method.series.terms=70",),
    "vrbo": ("method.series.terms=55", "inner_steps=1"),
    "soba": ("method.adjoint_lr.exponent=0",),
    "fsla": ("method.adjoint_lr.exponent=0", "method.momentum.initial=1"),
    # Off by the square of the nudge.
    "contrastive": ("method.nudge=1e-5", "method.nudged_steps=60"),
    "f2sa_p": ("method.nudge=1e-5",),
}
# Right but for O(1/m), O(decay) or O(damping): extrapolated from a small one and from half of it.
BIASED: dict[str, tuple[str, tuple[str, ...]]] = {
    "f2sa": ("method.multiplier={m}", ("method.growth=0",)),
    "pbgd": ("method.gamma.initial={m},method.gamma.final={m}", ("method.penalised_steps=30",)),
    "g_pbgd": ("method.gamma.initial={m},method.gamma.final={m}", ("method.step_size=0.2",)),
    "nystrom": ("method.linear_solver.damping={r}", ()),
    "meha": ("method.outer_weight.initial={r}", ("method.outer_weight.exponent=0",)),
    "bvfsm": (
        "method.decay.initial={r}",
        ("method.decay.exponent=0", "method.sigma=1", "method.mu=1e-3", "method.theta=1"),
    ),
}
# What is claimed of these is no hypergradient; or it is one in the mean over many draws alone.
APPROXIMATE = {"bsa", "ttsa", "sustain", "bsg1", "sama", "identity", "imaml", "bome"}


def of_the_family() -> list[str]:
    """The methods that differentiate the losses at what they take for a minimiser."""
    return [n for n in options("method") if asks(n, a_minimiser) or asks(n, a_solution)]


def asks(method: str, requirement: Requirement) -> bool:
    return requirement in class_of("method", method).requires


def test_every_method_that_needs_a_minimiser_is_held_here() -> None:
    rest = {"cg", "minres", "exact", "pseudo_inverse", "reverse_implicit", "amigo", "saba", "srba"}
    assert set(of_the_family()) == {*EXACT, *BIASED, *APPROXIMATE, *rest}


def closed_form(task: Any, outer: Params, solver: str) -> Tensor:
    """The hypergradient, by trying all sets of entries that a box can hold."""
    size = len(task.target)
    hessian, push = task.hessian, task.coupling @ outer["lam"]
    if solver in ("weight_decay", "both"):
        hessian = hessian + DECAY * torch.eye(size)
    bounded = solver in ("projected", "both")
    sides = itertools.product((0, -1, 1) if bounded else (0,), repeat=size)
    for side in (torch.tensor(one, dtype=torch.float64) for one in sides):
        free, z = side == 0, BOUND * side
        inverse = torch.linalg.inv(hessian[free][:, free])
        z[free] = inverse @ (push[free] - hessian[free][:, ~free] @ z[~free])
        slope = hessian @ z - push
        inside = not bounded or bool((z.abs() <= BOUND).all())
        if inside and bool((slope[~free] * side[~free] <= 0).all()):
            adjoint = inverse @ (z - task.target)[free]
            return task.coupling[free].T @ adjoint
    raise AssertionError("A strongly convex problem has a minimiser")


def limit(*overrides: str, repeats: int) -> tuple[Tensor, Any, Params]:
    """The estimate after `repeats` at fixed outer parameters, the task, and those.

    Of a method that remembers nothing, one estimate after as many inner steps.
    """
    config = configured(*SMALL, *MANY, *overrides)
    _, _, task, loop, method = parts(config, {})
    outer = {"lam": torch.tensor([0.7, -0.4, 0.9], dtype=torch.float64)}
    generator, steps = torch.Generator().manual_seed(0), config.inner_steps
    if not method.remembers:
        steps, repeats = steps * repeats, 1
    data = sample(task, method, steps, generator, generator)
    data = data._replace(noise=method.draw(outer, generator))
    method.check(loop, outer, data)
    carry = method.begin(loop, outer, data, loop.fresh(outer, data))
    for _ in range(repeats):
        found = method.estimate(loop, outer, data, carry)
        carry = found.carry
    return trees.ravel(found.grad)[0], task, outer


@pytest.mark.parametrize(
    ("method", "solver"),
    crossed(sorted(set(of_the_family()) - APPROXIMATE - set(BIASED)), SOLVERS, 4),
)
def test_an_implicit_method_differentiates_what_its_solver_minimises(
    method: str, solver: str
) -> None:
    settings = (*SOLVERS[solver], f"method={method}", "inner_steps=2")
    found, task, outer = limit(*settings, *EXACT.get(method, ()), repeats=60)
    exact = closed_form(task, outer, solver)
    assert (found - exact).norm() <= 1e-8 * exact.norm()


@pytest.mark.parametrize(("method", "solver"), crossed(sorted(BIASED), SOLVERS, 2))
def test_a_biased_method_tends_to_the_hypergradient_of_what_its_solver_minimises(
    method: str, solver: str
) -> None:
    sweep, rest = BIASED[method]

    def at(bias: float) -> tuple[Tensor, Any, Params]:
        values = sweep.format(m=1 / bias, r=bias).split(",")
        settings = (*SOLVERS[solver], f"method={method}", "inner_steps=10", *values, *rest)
        return limit(*settings, repeats=30)

    config = configured(*SMALL, *MANY, *SOLVERS[solver], f"method={method}")
    _, _, _, loop, chosen = parts(config, {})
    if loop.solver.within is not None and no_constraint in chosen.requires:
        with pytest.raises(ValueError, match="without constraints, got Box"):
            at(0.01)
        return
    (one, task, outer), (half, _, _) = at(1e-3), at(5e-4)
    exact = closed_form(task, outer, solver)
    # What extrapolation leaves is of the order of the bias squared.
    assert (2 * half - one - exact).norm() <= 1e-4 * exact.norm()
    assert 0.4 < (half - exact).norm() / (one - exact).norm() < 0.6


@pytest.mark.parametrize(("method", "solver"), crossed(of_the_family(), ["adamw", "bda"], 2))
def test_a_solver_that_minimises_nothing_is_refused_by_name(method: str, solver: str) -> None:
    with pytest.raises(ValueError, match="needs an inner solver that minimises a loss, got de"):
        limit(f"solver={solver}", f"method={method}", repeats=1)


@pytest.mark.parametrize(
    ("method", "learning"),
    crossed(
        [name for name in of_the_family() if asks(name, start_is_constant) and name != "imaml"],
        ["solver=gd_learned_lr", "solver=meta_sgd", "start=learned"],
        3,
    ),
)
def test_what_a_method_cannot_differentiate_is_refused_by_name(method: str, learning: str) -> None:
    config = configured(*SMALL, f"method={method}", learning)
    _, _, task, loop, chosen = parts(config, {})
    outer = task.init_outer(torch.Generator())
    data = task.sample(1, torch.Generator())
    outer |= loop.outer_init(data, outer)
    name = next(name for name in outer if name != "lam")
    with pytest.raises(ValueError, match=f"got {name}, which act through .* alone"):
        chosen.check(loop, outer, data)


def test_decay_of_the_solver_equals_the_same_penalty_written_into_the_task() -> None:
    # The ridge task has one outer parameter, the logarithm of its own penalty.
    shared = ("task=ridge", "device=cpu", "device.dtype=float64", "method=cg", "inner_steps=50")
    config = configured(*shared, "solver=weight_decay", f"solver.weight_decay={DECAY}")
    _, _, task, loop, method = parts(config, {})
    plain = parts(configured(*shared, "solver=gd"), {}).loop

    class Penalised(type(task)):  # type: ignore[misc]
        def inner_loss(self, inner: Params, outer: Params, batch: Any) -> Tensor:
            penalty = sum(value.square().sum() for value in inner.values())
            return super().inner_loss(inner, outer, batch) + 0.5 * DECAY * penalty

    written = object.__new__(Penalised)
    written.__dict__.update(vars(task))
    outer = task.init_outer(torch.Generator().manual_seed(0))
    data = task.sample(50, torch.Generator().manual_seed(0))
    pair = []
    for one in (loop, type(plain)(written, plain.solver, plain.start)):
        found = method.estimate(one, outer, data, method.init(outer, one.fresh(outer, data)))
        pair.append(trees.ravel(found.grad)[0])
    assert (pair[0] - pair[1]).norm() <= 1e-9 * pair[1].norm() > 0


def test_a_window_that_does_not_reach_a_learned_start_is_refused() -> None:
    shared = (*SMALL, "method=truncated", "start=learned", "method.window=3")
    for steps, refused in ((4, True), (3, False)):
        config = configured(*shared, f"inner_steps={steps}")
        _, _, task, loop, method = parts(config, {})
        outer, data = task.init_outer(torch.Generator()), task.sample(steps, torch.Generator())
        outer |= loop.outer_init(data, outer)
        expected = pytest.raises(ValueError, match="window=3 needs a start that is not learned")
        with expected if refused else contextlib.nullcontext():
            method.check(loop, outer, data)
