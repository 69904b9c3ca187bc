"""What methods ask of an inner loop and its problem, checked before any work.

Each requirement is a function of who asks, the inner loop, the outer parameters and the data of one
inner problem, without a dimension of episodes. It changes none of them, and raises ValueError where
it is not met: who needs what, what it got, and which options to use instead.
"""

from collections.abc import Callable
from functools import partial

import torch

from bilevel_cli.core import autodiff
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import StepData, follows_loss, has_outputs, inner_field, posed_by
from bilevel_cli.core.start import LEARNED_PREFIX
from bilevel_cli.core.trees import Params

Requirement = Callable[[str, InnerLoop, Params, StepData], None]


def losses_depend_on_outer(who: str, loop: InnerLoop, outer: Params, data: StepData) -> None:
    """Refuses outer parameters that act through the start or the steps of the inner loop alone."""
    outside = _outside_losses(loop, outer, data)
    if outside == set(outer):
        ways = {"the start": _begun, "the steps": _stepped}
        through = " and ".join(
            way for way, fn in ways.items() if _moving(partial(fn, loop, data), outer, outside)
        )
        through = through or "the start"
        raise ValueError(
            f"{who} needs losses that depend on the outer parameters, got losses in which "
            f"{_listed(outer)} do not occur: they act through {through} alone. Use method=reverse "
            f"or method=iaptt, which differentiate {through}."
        )


def outer_loss_contains_outer(who: str, loop: InnerLoop, outer: Params, data: StepData) -> None:
    """Refuses outer parameters that act through the inner problem alone."""
    slopes = autodiff.grad(loop.problem.outer_loss, 1)(_away(loop, outer, data), outer, data.outer)
    if absent := {name for name, slope in slopes.items() if not bool(slope.any())}:
        raise ValueError(
            f"{who} needs an outer loss that contains the outer parameters, got one in which "
            f"{_listed(absent)} do not occur: it would take their hypergradient for zero. Use "
            "method=reverse or method=cg, which see what acts through the inner problem."
        )


def start_is_constant(who: str, loop: InnerLoop, outer: Params, data: StepData) -> None:
    """Refuses outer parameters that are a learned start: their estimate would be exactly zero."""
    _refuse_learned(
        f"{who} needs a start that is not learned",
        _moving(partial(_begun, loop, data), outer, _outside_losses(loop, outer, data)),
        through="the start",
        instead="start=cold or start=warm",
    )


def solver_is_constant(who: str, loop: InnerLoop, outer: Params, data: StepData) -> None:
    """Refuses outer parameters that are settings of the inner solver, for the same reason."""
    _refuse_learned(
        f"{who} needs a solver whose settings are not learned",
        _moving(partial(_stepped, loop, data), outer, _outside_losses(loop, outer, data)),
        through="the steps",
        instead="solver=gd",
    )


def _refuse_learned(needs: str, learned: set[str], through: str, instead: str) -> None:
    """Raises ValueError where outer parameters act through a part of the inner loop alone.

    Args:
        needs: Who needs what.
        learned: The names of those outer parameters.
        through: The part of the inner loop through which they act.
        instead: The options to use where it is not to be learned.
    """
    if learned:
        raise ValueError(
            f"{needs}, got {_listed(learned)}, which act through {through} of the inner loop "
            f"alone: it would take their hypergradient for zero. Use {instead}, or method=reverse, "
            f"which differentiates {through}."
        )


def an_inner_loss(who: str, loop: InnerLoop, outer: Params, data: StepData) -> None:
    """Refuses a problem whose inner field is the gradient of no loss."""
    if not follows_loss(loop.problem):
        task = type(posed_by(loop.problem)).__name__
        raise ValueError(
            f"{who} needs the gradient of an inner loss, got the field of {task}, which is the "
            "gradient of none: there is no value to compare, and no symmetric Hessian. Use "
            "method=exact, method=neumann, method=fixed_point or method=reverse."
        )


def a_solution(who: str, loop: InnerLoop, outer: Params, data: StepData) -> None:
    """Refuses a solver that comes to rest elsewhere than where the inner field vanishes."""
    if loop.solver.no_minimiser:
        raise ValueError(
            f"{who} needs an inner solver that minimises a loss, got {loop.solver.no_minimiser}. "
            "Use solver=gd, solver=weight_decay for decay as a penalty, or method=reverse or "
            "method=iaptt, which differentiate the solver's own steps."
        )


def steps_rest(who: str, loop: InnerLoop, outer: Params, data: StepData) -> None:
    """Refuses a solver whose steps are random: they have no fixed point."""
    del outer, data
    if loop.solver.takes_draws:
        raise ValueError(
            f"{who} needs an inner solver that comes to rest, got {type(loop.solver).__name__}, "
            "whose steps are random. Use solver=gd, or method=reverse, which differentiates the "
            "steps with their random numbers fixed."
        )


def one_gradient_a_step(who: str, loop: InnerLoop, outer: Params, data: StepData) -> None:
    """Refuses a solver whose step takes the inner gradient at several points."""
    del outer, data
    if loop.solver.gradients != 1:
        raise ValueError(
            f"{who} needs an inner solver that takes one inner gradient in a step, got "
            f"{type(loop.solver).__name__}, which takes {loop.solver.gradients}. Use solver=gd, or "
            "method=reverse, which differentiates every step."
        )


def a_sampler(who: str, loop: InnerLoop, outer: Params, data: StepData) -> None:
    """Refuses a solver whose iterates are no samples of exp(-f / tau)."""
    an_inner_loss(who, loop, outer, data)
    if loop.solver.temperature is None:
        raise ValueError(
            f"{who} needs an inner solver that samples at a temperature above 0, got "
            f"{type(loop.solver).__name__}. Use solver=langevin with solver.tau > 0, or method=cg "
            "for the minimiser."
        )


def a_minimiser(who: str, loop: InnerLoop, outer: Params, data: StepData) -> None:
    """Refuses what `a_solution` does, and an inner field that is the gradient of no loss."""
    an_inner_loss(who, loop, outer, data)
    a_solution(who, loop, outer, data)


def no_constraint(who: str, loop: InnerLoop, outer: Params, data: StepData) -> None:
    """Refuses a solver that minimises over a set."""
    if loop.solver.within is not None:
        raise ValueError(
            f"{who} needs an inner problem without constraints, got {loop.solver.within}, at whose "
            "bounds the gradient of f does not vanish. Use solver=gd, or method=cg, method=f2sa or "
            "method=reverse, which serve constraints."
        )


def model_outputs(who: str, loop: InnerLoop, outer: Params, data: StepData) -> None:
    """Refuses a problem that does not say what its model puts out."""
    if not has_outputs(loop.problem):
        raise ValueError(
            f"{who} needs a problem with model outputs for curvature=gauss_newton, got "
            f"{type(posed_by(loop.problem)).__name__}, which has no `inner_outputs`. Use "
            "method.curvature=hessian."
        )


def start_is_learned(who: str, loop: InnerLoop, outer: Params, data: StepData) -> None:
    """Refuses outer parameters of which none is a learned start: nothing would be learned."""
    del loop, data
    if not any(name.startswith(LEARNED_PREFIX) for name in outer):
        raise ValueError(
            f"{who} needs a learned start, got outer parameters without any "
            f"{LEARNED_PREFIX}*: it does not see what acts through the inner loss. Use "
            "start=learned, or method=darts for a first-order method that does."
        )


_AT_A_POINT: tuple[Requirement, ...] = (
    losses_depend_on_outer,
    start_is_constant,
    solver_is_constant,
)
# For methods that differentiate the inner field and the outer loss at one point, and take it for a
# root: their products are with the transposed Jacobian of the field, and need no symmetry.
AT_A_SOLUTION: tuple[Requirement, ...] = (*_AT_A_POINT, a_solution)
# For methods that differentiate both losses at one point, and take it for a minimiser.
AT_A_MINIMISER: tuple[Requirement, ...] = (*_AT_A_POINT, a_minimiser)


def _begun(loop: InnerLoop, data: StepData, outer: Params) -> Params:
    """Where the inner loop begins."""
    return loop.begin(outer, data, loop.fresh(outer, data))["inner"]


def _stepped(loop: InnerLoop, data: StepData, outer: Params) -> Params:
    """Where two steps lead from a start that depends on nothing."""
    state = loop.solver.init(_away(loop, outer, data))
    for t in (0, 0):  # a learned momentum acts from the second step on
        state = loop.step(state, outer, data, t)
    return state["inner"]


def _outside_losses(loop: InnerLoop, outer: Params, data: StepData) -> set[str]:
    """The outer parameters on which neither the inner nor the outer loss depends."""
    # Not at the start itself, where a symmetry may hide the dependence.
    problem, inner, batch = loop.problem, _away(loop, outer, data), data.inner_at(-1)
    outer_part = autodiff.grad(problem.outer_loss, 1)(inner, outer, data.outer)
    outside = {name for name in outer if not bool(outer_part[name].any())}
    if not follows_loss(problem):
        return outside - _moving(lambda at: inner_field(problem, inner, at, batch), outer, outside)
    inner_part = autodiff.grad(problem.inner_loss, 1)(inner, outer, batch)
    return {name for name in outside if not bool(inner_part[name].any())}


def _moving(fn: Callable[[Params], Params], outer: Params, names: set[str]) -> set[str]:
    """Those of the outer parameters `names` on which `fn` depends."""
    if not names:
        return set()
    result, pullback = autodiff.vjp(fn, outer)
    generator = torch.Generator().manual_seed(0)
    cotangent = {n: torch.randn(v.shape, generator=generator).to(v) for n, v in result.items()}
    (slopes,) = pullback(cotangent)
    return {name for name in names if bool(slopes[name].any())}


def _away(loop: InnerLoop, outer: Params, data: StepData) -> Params:
    """Inner parameters at a random distance from their start, on which they do not depend."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: value.detach() + torch.randn(value.shape, generator=generator).to(value)
        for name, value in loop.problem.init_inner(outer, data).items()
    }


def _listed(names: "Params | set[str]") -> str:
    some = sorted(names) if isinstance(names, set) else list(names)
    return ", ".join(some[:3]) + " ..." * (len(some) > 3)
