"""What the methods that perturb the outer parameters at random share.

Perturbations are trees of the shapes of the outer parameters, with one more leading dimension.
"""

import math
from typing import Any

import torch
from torch import Tensor

from bilevel_cli.core import draws, trees
from bilevel_cli.core.claim import Claim, NoSolution, Reference, Trial
from bilevel_cli.core.trees import Params, Tree

# The mean of `REPEATS` estimates with `ENOUGH` directions each has a relative standard error of
# sqrt((d + 1) / 4000) in d dimensions: less than a half for d <= `FEW`.
REPEATS, ENOUGH, FEW = 100, 40, 900
# Where a loss is not quadratic, the mean is off by O(std^2), or by O(std) where differences look to
# one side only. After twenty steps of Adam that was up to 15 standard errors at std = 0.01, 5 at
# 0.0001 near a sign that changes, and too little to be seen at 0.00001.
NARROW = 1e-5


def check_settings(who: str, std: float | None = None, **counts: int) -> None:
    """Raises ValueError unless all counts are at least 1 and `std` is a usable deviation."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{who} needs {name} >= 1, got {name}={count}. Set method.{name}.")
    if std is not None and not 0 < std < math.inf:
        raise ValueError(f"{who} needs a finite std > 0, got std={std}. Set method.std, e.g. 0.01.")


def normal(outer: Params, count: int, std: float, generator: torch.Generator) -> Params:
    """`count` independent perturbations: a new leading dimension, entries from N(0, std^2)."""
    return {
        name: std
        * draws.normal(count, *value.shape, generator=generator, drawn_in=torch.float64).to(value)
        for name, value in outer.items()
    }


def mirrored(perturbations: Params) -> Params:
    """The perturbations, and then their antithetic partners."""
    return {name: torch.cat([value, -value]) for name, value in perturbations.items()}


def around(outer: Params, perturbations: Params) -> Params:
    """`outer` as it is, and then with each perturbation added, along a leading dimension."""
    return {
        name: torch.cat([value[None], value + perturbations[name]]) for name, value in outer.items()
    }


def combine(weights: Tensor, directions: Params) -> Params:
    """sum_i weights_i * directions_i, for weights [n] and n directions."""
    return {name: torch.tensordot(weights, value, dims=1) for name, value in directions.items()}


def row(tree: Tree, index: Tensor) -> Tree:
    """Row `index`, a 0-dim tensor, of every tensor of nested dicts."""
    return trees.map_leaves(lambda x: x.index_select(0, index[None]).squeeze(0), tree)


def unperturbed(particles: Tree) -> Tree:
    """The state of the first particle, without holding on to the others."""
    return trees.map_leaves(lambda x: x[0].clone(), particles)


def choose(condition: Tensor, these: Tree, others: Tree) -> Tree:
    """`these` where the 0-dim condition holds, else `others`: nested dicts alike."""
    return trees.map_leaves(lambda x, y: torch.where(condition, x, y), these, others)


def mean_claim(text: str, reference: Reference, base: Any, perturbs: bool = True) -> Claim:
    """The claim that the expectation of an estimate over its perturbations is the reference.

    Args:
        text: What the estimate is.
        reference: Computes what the estimate is said to be.
        base: The method with at least `ENOUGH` directions. Its estimate is a mean over them, so
            that their number changes the noise and nothing else.
        perturbs: Whether the estimate compares losses, and takes no derivative of an inner step.
    """

    def in_few_dimensions(trial: Trial) -> Params:
        count = trees.size(trial.outer)
        if count > FEW:
            raise NoSolution(f"a mean over random directions is noise in {count} dimensions")
        return reference(trial)

    # 4.5 standard errors are passed by chance once in 10^5 entries.
    return Claim(
        *(text, in_few_dimensions),
        tolerance=4.5,
        kind="mean",
        repeats=REPEATS,
        base=base,
        perturbs=perturbs,
    )
