"""The loss on real data."""

from torch import Tensor

from bilevel_cli.core.problem import Batch
from bilevel_cli.core.trees import Params
from bilevel_cli.nn.functional import Functional
from bilevel_cli.nn.losses import cross_entropy
from bilevel_cli.tasks.distillation.objectives.base import Objective


class Validation(Objective):
    """F = mean CE(z; real): the bilevel problem itself (Wang et al., 2018, arXiv:1811.10959).

    For methods that differentiate the inner problem, by unrolling or implicitly.
    """

    needs_classes = False

    def __call__(
        self, model: Functional, params: Params, learned: Batch, real: Batch, target: Params
    ) -> Tensor:
        x, y = (real[name].flatten(0, 1) for name in ("x", "y"))
        return cross_entropy(model.apply(params, x), y)
