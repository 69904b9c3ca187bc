"""What an estimate is said to be: claims, and the trials that they are held to.

A method states its claim (`Hypergradient.claim`), and `bilevel-check` holds it to that. So reverse
mode claims the derivative of F(z_K(lambda), lambda) to 1e-6, as a "value"; evolution strategies
claim the same as a "mean" over their random numbers; a penalty method claims a "rate", since its
bias falls as 1 / multiplier.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.trees import Params


class Trial(NamedTuple):
    """One estimate, as a reference sees it: what went into it, and what came out.

    All tensors are on one device, in the precision of the check: float64, unless the user chooses
    another. A reference changes none of them.

    Attributes:
        loop: The inner loop, of one inner problem.
        outer: The outer parameters.
        data: The data of one inner problem, all of whose minibatches are the same.
        carry: The memory before the estimate.
        last: The inner parameters after it, of the shapes of `data.init`.
    """

    loop: InnerLoop
    outer: Params
    data: StepData
    carry: Any
    last: Params


# Computes what an estimate is said to be, in the shapes of `Trial.outer`. Raises NoSolution where
# the inner problem has no solution to compare with, and `references.Chaotic` where no finite
# difference tells the derivative.
Reference = Callable[[Trial], Params]


class Claim(NamedTuple):
    """A statement about an estimate g, with the tolerance to which it is held.

    Attributes:
        text: What g is, for the table of `bilevel-check`.
        reference: Computes what g is said to be.
        tolerance: The largest relative error |g - reference| / |reference|; a function of the trial
            where theory makes it depend on the problem. For a mean it is the largest number of
            standard errors by which an entry may be off, while the noise of the mean is less than
            half of the reference.
        kind: "value": one estimate is the reference. "mean": its expectation over `data.noise` is,
            and over `data.draws` where `over_draws`.
            "limit": estimates that are repeated at fixed outer parameters, each with the memory of
            the one before, tend to it. "rate": repeated in this way, they tend to something that
            misses it, and `variant` misses it `ratio` times as much.
        repeats: Estimates to average, or to take on the way to the limit.
        base: The method to measure, where it is another than the one that claims. Such as the same
            one with its schedules frozen.
        variant: For a rate: the same method with another setting.
        ratio: For a rate: bounds of (error of the variant) / (error of the method).
        perturbs: Whether the estimate compares losses. It then sees what derivatives of the problem
            take for constants, and its reference must see it too.
        over_draws: Whether a mean is one over the random numbers of the solver, too.
    """

    text: str
    reference: Reference
    tolerance: float | Callable[[Trial], float] = 1e-6
    kind: Literal["value", "mean", "limit", "rate"] = "value"
    repeats: int = 1
    base: Any = None
    variant: Any = None
    ratio: tuple[float, float] = (0.0, 1.0)
    perturbs: bool = False
    over_draws: bool = False


class NoSolution(Exception):
    """The inner problem has no isolated minimiser, or none small enough, to hold an estimate to."""
