"""The interface of the objectives of dataset distillation."""

import abc

from torch import Tensor

from bilevel_cli.core.problem import Batch
from bilevel_cli.core.trees import Params
from bilevel_cli.nn.functional import Functional


class Objective(abc.ABC):
    """The outer loss F(z, lambda): how far learned images are from teaching what real ones do.

    Attributes:
        needs_target: Whether it compares networks with what they should become, which experts know.
        takes_real: Whether it looks at the real batch.
        needs_classes: Whether it takes learned images class by class.
    """

    needs_target: bool = False
    takes_real: bool = True
    needs_classes: bool = True

    def begin(self, model: Functional) -> Params:
        """Outer parameters of its own, besides images and labels, as they begin; {} for none.

        Args:
            model: The architecture.
        """
        return {}

    @abc.abstractmethod
    def __call__(
        self, model: Functional, params: Params, learned: Batch, real: Batch, target: Params
    ) -> Tensor:
        """F, a scalar.

        Images, [classes, each, ...], and their labels, [classes, each, all classes], are grouped by
        class. Classes without a training example are absent. Learned images of no class are one
        group, for an objective that does not need classes.

        Args:
            model: The architecture.
            params: Its parameters after the inner steps; before them with method=direct.
            learned: "x", all learned images, "y", their soft labels, and what `begin` returned, as
                it is now.
            real: "x", a batch of real images, and "y", their labels, one-hot.
            target: `origin.*` and `target.*`, an expert's parameters at the start and `span` epochs
                later; {} unless it `needs_target`.
        """
