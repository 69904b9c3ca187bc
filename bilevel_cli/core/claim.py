"""What an estimate is said to be: claims, and the trials that they are held to."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.trees import Params


class Trial(NamedTuple):
    """One estimate, as a reference sees it: what went into it, and what came out.

    Attributes:
        loop: The inner loop, of one inner problem.
        outer: The outer parameters.
        data: The data, all of whose minibatches are the same.
        carry: The memory before the estimate.
        last: The inner parameters after it.
    """

    loop: InnerLoop
    outer: Params
    data: StepData
    carry: Any
    last: Params


Reference = Callable[[Trial], Params]


class Claim(NamedTuple):
    """A statement about an estimate g, with the tolerance to which it is held.

    Attributes:
        text: What g is, for the table of `bilevel-check`.
        reference: Computes that.
        tolerance: Largest relative error |g - reference| / |reference|, where theory makes it
            depend on the problem a function of the trial. Of a mean, the largest number of
            standard errors by which an entry may be off, while the noise of the mean is less than
            half of the reference.
        kind: "value": one estimate is the reference. "mean": its expectation over `data.noise` is.
            "limit": repeated at fixed outer parameters, estimates tend to it. "rate": so repeated,
            they tend to something that misses it, and `variant` misses it `ratio` times as much.
        repeats: Estimates to average, or to take on the way to the limit.
        base: The method to measure where it is not the one that claims: with its schedules frozen.
        variant: For a rate: the same method with another setting.
        ratio: For a rate: bounds of (error of the variant) / (error of the method).
        perturbs: Whether the estimate compares losses, and so sees what derivatives of the problem
            take for constants.
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


class NoSolution(Exception):
    """The inner problem has no isolated minimiser, or none small enough, to hold an estimate to."""
