"""Mean features of learned and of real images."""

from torch import Tensor

from bilevel_cli.core.problem import Batch
from bilevel_cli.core.trees import Params
from bilevel_cli.nn.functional import Functional
from bilevel_cli.tasks.distillation.objectives.base import Objective


class DistributionMatching(Objective):
    """F = sum over classes of |mean features(learned) - mean features(real)|^2 (DM, Zhao & Bilen,
    2023, arXiv:2110.04181).

    Features are what the network's last layer is given. Made for method=direct and start=cold: the
    networks are random, and no inner step is needed.
    """

    def __call__(
        self, model: Functional, params: Params, learned: Batch, real: Batch, target: Params
    ) -> Tensor:
        def means(x: Tensor) -> Tensor:
            return model.features(params, x.flatten(0, 1)).reshape(*x.shape[:2], -1).mean(1)

        return (means(learned["x"]) - means(real["x"])).square().sum()
