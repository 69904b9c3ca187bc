"""Evolution strategies with a single perturbation for each inner problem."""

from dataclasses import dataclass

from torch import Tensor

from bilevel_cli.core.trees import Params
from bilevel_cli.methods.parts import perturbations
from bilevel_cli.methods.pes import Pes


@dataclass(frozen=True)
class EsSingle(Pes):
    """ES-Single (Vicol, Kolter, Swersky, 2023, "Low-variance gradient estimation in unrolled
    computation graphs with ES-Single", arXiv:2304.11153).

    This is `Pes`, with the same windows and starts, but for one thing: a pair draws a perturbation
    when its inner problem begins, and keeps it for all windows of that problem:

        g = mean over pairs of eps * (L(lambda + eps) - L(lambda - eps)) / (2 std^2).

    Summed over the windows of a problem, that is `Es` on the sum of their losses. So the variance
    does not grow with the number of windows, as it does for `Pes`. The bias is O(std^2) in every
    window, and grows with the curvature of the longer loss.

    Args:
        pairs: Antithetic pairs of particles.
        std: Standard deviation of the perturbations, in the unit of the outer parameters.
        horizon: Windows, that is outer steps, of an inner problem.
    """

    def directions(self, noise: Params, before: Params, begins: Tensor) -> tuple[Params, Params]:
        kept = perturbations.choose(begins, noise, before)
        return kept, kept
