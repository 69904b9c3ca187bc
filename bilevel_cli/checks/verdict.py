"""Holds a hypergradient method to what it claims, on one inner problem in float64."""

import contextlib
import math
import os
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from bilevel_cli.checks.trials import AWAY, End, Trials, distance, relative_error, setting
from bilevel_cli.core import constants, references, trees
from bilevel_cli.core.claim import Claim, NoSolution, Trial
from bilevel_cli.core.episodes import refuse_memory
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import CannotServe, Hypergradient, cost_of
from bilevel_cli.core.references import Chaotic
from bilevel_cli.core.task import Task
from bilevel_cli.core.trees import Params
from bilevel_cli.runs import foresight

DEBUG = "HYDRA_FULL_ERROR"  # the variable that asks for a traceback, here as in bilevel-run
PATIENCE = 16  # times as many estimates as a claim asks for, to settle behind a slow inner solver


class Finding(NamedTuple):
    """One row of the table of `bilevel-check`.

    Attributes:
        claim: What the method says its estimate is.
        measured: The error, z-score or ratio that was found, as text.
        allowed: What it may be, as text.
        relative_error: |g - reference| / |reference| to what is claimed; NaN where there is none.
        cosine: Of g and that reference.
        exact_error: Relative error to the hypergradient at the inner solution; NaN where there is
            no isolated solution, or none small enough to be found densely.
        exact_cosine: Of g and that.
        inner_grads: Gradients of the inner loss that one estimate takes.
        hvps: Second-order products that it takes.
        seconds: Of one estimate.
        verdict: "ok"; "WRONG"; "unsettled", where repeated estimates still move and may be right
            one day; "failed", with an error; "refused", by the method; "no reference", where the
            claim needs a solution that the problem has not; "chaotic", where the reference depends
            on the step of its finite differences, so that nothing is known.
        reason: For all but "ok", in one line.
    """

    claim: str
    verdict: str
    measured: str = ""
    allowed: str = ""
    relative_error: float = math.nan
    cosine: float = math.nan
    exact_error: float = math.nan
    exact_cosine: float = math.nan
    inner_grads: float = math.nan
    hvps: float = math.nan
    seconds: float = math.nan
    reason: str = ""


@torch.no_grad()
def check(
    method: Hypergradient[Any],
    loop: InnerLoop,
    task: Task,
    num_steps: int,
    seed: int,
    away: float = AWAY,
) -> Finding:
    """Checks the claim of `method` on one inner problem of `task`, all of whose batches are alike.

    Args:
        method: The method.
        loop: The inner loop on the task.
        task: The task; torch's default precision should be float64.
        num_steps: Inner steps.
        seed: Of the outer parameters, the sample and the method's own noise.
        away: Standard deviation of the outer parameters around their start.
    """
    claim = _made(method.claim(), task)
    try:
        refuse_memory(task, loop, method)
        outer, data = setting(task, loop, method, num_steps, seed, away)
        method.check(loop, outer, data)
        foresight.check_memory(method, loop, outer, data)
        device = next(iter(outer.values())).device
        noise = torch.Generator(device).manual_seed(seed + 1)
        return _found(method, claim, Trials(loop, outer, data, noise))
    except (ValueError, CannotServe) as error:
        return Finding(claim.text, "refused", reason=str(error))
    except NoSolution as error:
        return Finding(claim.text, "no reference", reason=str(error))
    except Chaotic as error:
        return Finding(claim.text, "chaotic", reason=str(error))
    except Exception as error:  # one broken method must not hide the others
        if DEBUG in os.environ:
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}. {DEBUG}=1 shows where."
        return Finding(claim.text, "failed", reason=reason)


def _made(claim: Claim, task: Task) -> Claim:
    """The claim as it is made of a task, whose derivatives may leave out a dependence by design."""
    if not task.constants:
        return claim
    if not claim.perturbs:
        return claim._replace(text=f"{claim.text}; {task.constants} constant in z")

    def reference(trial: Trial) -> Params:
        with constants.moving():
            return claim.reference(trial)

    return claim._replace(reference=reference)


def _found(method: Hypergradient[Any], claim: Claim, trials: Trials) -> Finding:
    since = time.perf_counter()
    single, trial = trials.one(method, trials.first(method))
    seconds = time.perf_counter() - since
    if claim.repeats > 1 and trees.size(trial.last) > references.LARGEST:
        with contextlib.suppress(Chaotic):  # another point may be smooth
            claim.reference(trial)  # it says whether there is one, before many estimates
    base = method if claim.base is None else claim.base
    held = KINDS[claim.kind](claim, base, trials)
    verdict, reason = "ok", ""
    if held.moves:
        verdict = "unsettled"
        reason = (
            f"says {claim.text} in the limit, and after {held.repeats} estimates still moves. "
            "Raise inner_steps or the step sizes."
        )
    elif not held.holds:
        verdict = "WRONG"
        reason = f"says {claim.text}, and misses it: {held.measured}, not {held.allowed}"
    cost = cost_of(
        *(method, trials.loop, trials.data.num_steps, trials.outer, held.trial.last),
        single.metrics,
    )
    finding = Finding(
        claim=claim.text,
        verdict=verdict,
        measured=held.measured,
        allowed=held.allowed,
        relative_error=relative_error(held.grad, held.reference),
        cosine=_cosine(held.grad, held.reference),
        inner_grads=float(cost.inner_grads),
        hvps=float(cost.hvps),
        seconds=seconds,
        reason=reason,
    )
    try:
        exact = references.solution(held.trial)
    except (NoSolution, Chaotic):
        return finding
    return finding._replace(
        exact_error=relative_error(held.grad, exact), exact_cosine=_cosine(held.grad, exact)
    )


class Held(NamedTuple):
    """A claim beside what was found.

    Attributes:
        grad: The estimate that was compared, of the shapes of the outer parameters.
        trial: What it saw.
        reference: What it is said to be, of the same shapes.
        measured: The error, z-score or ratio that was found, as text.
        allowed: What it may be, as text.
        holds: Whether it is.
        moves: Whether it is not, but repeated estimates are still on their way.
        repeats: Estimates that were taken one after the other.
    """

    grad: Params
    trial: Trial
    reference: Params
    measured: str
    allowed: str
    holds: bool
    moves: bool = False
    repeats: int = 1


def value(claim: Claim, base: Hypergradient[Any], trials: Trials) -> Held:
    """Holds an estimate to its reference: the last of `claim.repeats`.

    This, like the other kinds, takes the claim, the method to measure, and what makes estimates.
    """
    end = trials.repeated(base, trials.first(base), claim.repeats)
    return _compared(claim, end)[0]


def mean(claim: Claim, base: Hypergradient[Any], trials: Trials) -> Held:
    """Holds the mean of `claim.repeats` estimates to the reference, by a z-test of every entry."""
    _, trial = trials.one(base, trials.first(base))
    reference = claim.reference(trial)  # first: where there is none, nothing needs to be drawn
    with warnings.catch_warnings():
        # torch 2.13 says so of its own output, in log_sigmoid's derivative by both modes.
        warnings.filterwarnings("ignore", "An output with one or more elements was resized")
        drawn = trials.drawn(base, claim, trial)
    vector, unravel = trees.ravel(reference)
    average, error = drawn.mean(0), drawn.std(0) / math.sqrt(len(drawn))
    # An entry without noise, such as one that the loss does not depend on, must be right itself.
    floor = 1e-9 * (1 + vector.norm())
    score = float(((average - vector).abs() / (error + floor)).max())
    noise = float(error.norm() / vector.norm())
    most = claim.tolerance
    assert not callable(most), "The tolerance of a mean is a z-score"
    return Held(
        *(unravel(average), trial, reference),
        measured=f"z {score:.1f}, noise {noise:.2f}",
        allowed=f"z <= {most:g}, noise <= 0.5",
        holds=score <= most and noise <= 0.5,
    )


def limit(claim: Claim, base: Hypergradient[Any], trials: Trials) -> Held:
    """Holds repeated estimates to the reference to which they tend."""

    def judged(ends: list[End]) -> Held:
        held, error = _compared(claim, ends[0])
        return held._replace(moves=not held.holds and _on_its_way(claim, ends, [error]))

    return _patiently([base], claim, trials, judged)


def rate(claim: Claim, base: Hypergradient[Any], trials: Trials) -> Held:
    """Holds the error of repeated estimates to the ratio that another setting makes of it."""

    def judged(ends: list[End]) -> Held:
        held, error = _compared(claim, ends[0])
        other = ends[1]
        other_error = relative_error(other.found.grad, claim.reference(other.trial))
        ratio, (low, high) = other_error / error, claim.ratio
        holds = low <= ratio <= high
        return held._replace(
            measured=f"ratio {ratio:.3f}",
            allowed=f"{low:g} .. {high:g}",
            holds=holds,
            moves=not holds and _on_its_way(claim, ends, [error, other_error]),
        )

    return _patiently([base, claim.variant], claim, trials, judged)


KINDS = {"value": value, "mean": mean, "limit": limit, "rate": rate}


def _patiently(
    methods: list[Hypergradient[Any]],
    claim: Claim,
    trials: Trials,
    judged: Callable[[list[End]], Held],
) -> Held:
    """The judgement on repeated estimates of all `methods`, of more while these are on their way.

    What is still on its way after PATIENCE times as many as the claim asks for is left unsettled.
    """
    repeats = claim.repeats
    ends = [trials.repeated(one, trials.first(one), repeats) for one in methods]
    while (held := judged(ends)).moves and repeats < PATIENCE * claim.repeats:
        going_on = zip(methods, ends, strict=True)
        ends = [trials.repeated(one, end.found.carry, repeats) for one, end in going_on]
        repeats *= 2  # in all
    return held._replace(repeats=repeats)


def _compared(claim: Claim, end: End) -> tuple[Held, float]:
    """The last estimate beside its reference, and its relative error."""
    with references.doubts() as doubts:
        reference = claim.reference(end.trial)
    error, doubt = relative_error(end.found.grad, reference), sum(doubts)
    most = _tolerance(claim, end.trial)
    measured, allowed, holds = f"{error:.1e}", f"<= {most:.1e}", error <= most
    if not holds and distance(end.found.grad, reference) <= doubt:  # such as a reference of zero
        measured, allowed, holds = "0, to rounding", f"<= {doubt:.1e}, absolute", True
    return Held(end.found.grad, end.trial, reference, measured, allowed, holds), error


def _on_its_way(claim: Claim, ends: list[End], errors: list[float]) -> bool:
    """Whether the estimates that moved most may still come to what they miss."""
    moved, error = max(zip((end.moved for end in ends), errors, strict=True))
    # What still moves by a tenth of what it misses is on its way, however slowly.
    return moved > min(_tolerance(claim, ends[0].trial), 0.1 * error)


def _tolerance(claim: Claim, trial: Trial) -> float:
    return claim.tolerance(trial) if callable(claim.tolerance) else claim.tolerance


def _cosine(found: Params, reference: Params) -> float:
    norms = float(trees.norm(found) * trees.norm(reference))
    return float(trees.dot(found, reference)) / norms if norms > 0 else math.nan
