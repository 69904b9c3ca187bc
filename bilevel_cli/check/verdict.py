"""Holds a hypergradient method to what it claims, on one inner problem in float64."""

import math
import os
import time
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bilevel_cli.core import autodiff, constants, draws, episodes, references, trees
from bilevel_cli.core.claim import Claim, NoSolution, Trial
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Estimate, Hypergradient
from bilevel_cli.core.problem import StepData, follows_loss
from bilevel_cli.core.references import Chaotic
from bilevel_cli.core.task import Task
from bilevel_cli.core.trees import Params
from bilevel_cli.runs.runner import check_memory

DEBUG = "HYDRA_FULL_ERROR"  # the variable that asks for a traceback, here as in bilevel-run
AT_ONCE = 20_000  # inner parameters of all estimates that are mapped at once
PATIENCE = 16  # times as many estimates as a claim asks for, to settle behind a slow inner solver
AWAY = 0.1  # standard deviation of the outer parameters around their start, where symmetries hide


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
    method: Hypergradient[Any], loop: InnerLoop, task: Task, num_steps: int, seed: int
) -> Finding:
    """Checks the claim of `method` on one inner problem of `task`, all of whose batches are alike.

    Args:
        method: The method.
        loop: The inner loop on the task.
        task: The task; torch's default precision should be float64.
        num_steps: Inner steps.
        seed: Of the outer parameters, the sample and the method's own noise.
    """
    claim = _made(method.claim(), task)
    try:
        return _checked(method, claim, loop, task, num_steps, seed)
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


def _checked(
    method: Hypergradient[Any],
    claim: Claim,
    loop: InnerLoop,
    task: Task,
    num_steps: int,
    seed: int,
) -> Finding:
    try:
        check_memory(task, loop, method)
        outer, data = _setting(task, loop, method, num_steps, seed)
        method.check(loop, outer, data)
        return _hold(method, claim, loop, outer, data, seed)
    except ValueError as error:
        return Finding(claim.text, "refused", reason=str(error))
    except RuntimeError as error:
        if "method=" not in str(error):
            raise
        return Finding(claim.text, "refused", reason=str(error))


def _setting(
    task: Task, loop: InnerLoop, method: Hypergradient[Any], num_steps: int, seed: int
) -> tuple[Params, StepData]:
    cpu = torch.Generator().manual_seed(seed)
    outer = task.init_outer(cpu)
    device = next(iter(outer.values())).device if outer else torch.device("cpu")
    data = task.sample(1, torch.Generator(device).manual_seed(seed))
    if task.episodes is not None:
        data = episodes.first(data)
    outer = {**loop.outer_init(data, outer), **outer}
    outer = {
        name: value
        + AWAY * draws.normal(*value.shape, generator=cpu, drawn_in=torch.float64).to(value)
        for name, value in outer.items()
    }

    # Of no block: a memory of blocks of which one alone is ever seen would not fill.
    inner, last = (
        {name: value for name, value in batch.items() if name != "block"}
        for batch in (data.inner, data.outer)
    )

    def repeated(count: int) -> dict[str, Tensor]:
        return {name: value.expand(count, *value.shape[1:]) for name, value in inner.items()}

    extra = repeated(method.extra_batches) if method.extra_batches else {}
    return task.project_outer(outer), data._replace(
        inner=repeated(num_steps), outer=last, extra=extra
    )


def _hold(
    method: Hypergradient[Any],
    claim: Claim,
    loop: InnerLoop,
    outer: Params,
    data: StepData,
    seed: int,
) -> Finding:
    device = next(iter(outer.values())).device
    noise = torch.Generator(device).manual_seed(seed + 1)

    def first(method: Hypergradient[Any]) -> Any:
        return method.begin(loop, outer, data, loop.fresh(outer, data))

    def estimate(method: Hypergradient[Any], carry: Any) -> tuple[Estimate, Trial]:
        drawn = data._replace(noise=method.draw(outer, noise))
        found = method.estimate(loop, outer, drawn, carry)
        return found, Trial(loop, outer, drawn, carry, found.carry["inner"]["inner"])

    def repeated(
        method: Hypergradient[Any], carry: Any, count: int
    ) -> tuple[Estimate, Trial, float]:
        """The last of `count` estimates, each with the carry of the one before.

        And the relative distance that the second half of them moved.
        """
        found, trial = estimate(method, carry)
        half = found
        for number in range(1, count):
            if number == count // 2:
                half = found
            found, trial = estimate(method, found.carry)
        return found, trial, _error(half.grad, found.grad)

    since = time.perf_counter()
    single, _ = estimate(method, first(method))
    seconds = time.perf_counter() - since
    base = method if claim.base is None else claim.base
    unsettled, repeats = False, claim.repeats
    if claim.kind == "mean":
        found, trial = estimate(base, first(base))
        with warnings.catch_warnings():
            # torch 2.13 says so of its own output, in log_sigmoid's derivative by both modes.
            warnings.filterwarnings("ignore", "An output with one or more elements was resized")
            drawn = _drawn(base, claim.repeats, trial, noise)
        reference = claim.reference(trial)
        grad, measured, allowed, holds = _mean(claim, drawn, reference)
        found = found._replace(grad=grad)
    else:
        pair = [base] if claim.kind != "rate" else [base, claim.variant]
        ends = [repeated(one, first(one), repeats) for one in pair]
        while True:
            found, trial, moved = ends[0]
            with references.doubts() as doubts:
                reference = claim.reference(trial)
            error, doubt = _error(found.grad, reference), sum(doubts)
            limit = claim.tolerance(trial) if callable(claim.tolerance) else claim.tolerance
            measured, allowed, holds = f"{error:.1e}", f"<= {limit:.1e}", error <= limit
            if not holds and _gap(found.grad, reference) <= doubt:  # such as a reference of zero
                measured, allowed, holds = "0, to rounding", f"<= {doubt:.1e}, absolute", True
            if claim.kind == "rate":
                other, trial_of_other, other_moved = ends[1]
                other_error = _error(other.grad, claim.reference(trial_of_other))
                ratio, (low, high) = other_error / error, claim.ratio
                measured, allowed = f"ratio {ratio:.3f}", f"{low:g} .. {high:g}"
                holds = low <= ratio <= high
                moved, error = max((moved, error), (other_moved, other_error))
            # What still moves by a tenth of what it misses is on its way, however slowly.
            moves = moved > min(limit, 0.1 * error)
            unsettled = claim.kind in ("limit", "rate") and not holds and moves
            if not unsettled or repeats >= PATIENCE * claim.repeats:
                break
            going_on = zip(pair, ends, strict=True)
            ends = [repeated(one, end[0].carry, repeats) for one, end in going_on]
            repeats *= 2  # in all
    verdict, reason = "ok", ""
    if unsettled:
        verdict = "unsettled"
        reason = (
            f"says {claim.text} in the limit, and after {repeats} estimates still moves. "
            "Raise inner_steps or the step sizes."
        )
    elif not holds:
        verdict = "WRONG"
        reason = f"says {claim.text}, and misses it: {measured}, not {allowed}"
    cost = method.cost(data.num_steps, outer, trial.last, single.metrics)
    finding = Finding(
        claim=claim.text,
        verdict=verdict,
        measured=measured,
        allowed=allowed,
        relative_error=_error(found.grad, reference),
        cosine=_cosine(found.grad, reference),
        inner_grads=float(cost.inner_grads),
        hvps=float(cost.hvps),
        seconds=seconds,
        reason=reason,
    )
    if not follows_loss(loop.problem):
        return finding
    try:
        exact = references.solution(trial)
    except (NoSolution, Chaotic):
        return finding
    return finding._replace(
        exact_error=_error(found.grad, exact), exact_cosine=_cosine(found.grad, exact)
    )


def _drawn(method: Hypergradient[Any], count: int, trial: Trial, noise: torch.Generator) -> Tensor:
    """`count` estimates that differ in their noise alone, [count, outer parameters]."""
    loop, outer, data, carry, last = trial

    def vector(drawn: Params) -> Tensor:
        found = method.estimate(loop, outer, data._replace(noise=drawn), carry)
        return trees.ravel(found.grad)[0]

    draws = [method.draw(outer, noise) for _ in range(count)]
    at_once = max(1, AT_ONCE // trees.size(last))  # mapped: one by one takes a hundred times longer
    return torch.cat(
        [
            autodiff.vmap(vector)(
                {
                    name: torch.stack([draw[name] for draw in draws[first : first + at_once]])
                    for name in draws[0]
                }
            )
            for first in range(0, count, at_once)
        ]
    )


def _mean(claim: Claim, drawn: Tensor, reference: Params) -> tuple[Params, str, str, bool]:
    """Holds the mean of estimates to its reference, by a z-test of every entry."""
    vector, unravel = trees.ravel(reference)
    mean, error = drawn.mean(0), drawn.std(0) / math.sqrt(len(drawn))
    # An entry without noise, such as one that the loss does not depend on, must be right itself.
    floor = 1e-9 * (1 + vector.norm())
    score = float(((mean - vector).abs() / (error + floor)).max())
    noise = float(error.norm() / vector.norm())
    limit = claim.tolerance
    assert not callable(limit), "The tolerance of a mean is a z-score"
    return (
        unravel(mean),
        f"z {score:.1f}, noise {noise:.2f}",
        f"z <= {limit:g}, noise <= 0.5",
        score <= limit and noise <= 0.5,
    )


def _error(found: Params, reference: Params) -> float:
    """The relative error; the absolute one where the reference is zero."""
    return _gap(found, reference) / (float(trees.norm(reference)) or 1.0)


def _gap(found: Params, reference: Params) -> float:
    return float(trees.norm(trees.axpy(-1.0, reference, found)))


def _cosine(found: Params, reference: Params) -> float:
    norms = float(trees.norm(found) * trees.norm(reference))
    return float(trees.dot(found, reference)) / norms if norms > 0 else math.nan
