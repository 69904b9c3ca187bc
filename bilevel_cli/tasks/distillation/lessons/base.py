"""The interface of the lessons of dataset distillation: how learned images teach a network."""

import abc

from torch import Tensor

from bilevel_cli.core.trees import Params
from bilevel_cli.nn.functional import Functional


class Lesson(abc.ABC):
    """The inner loss f(z, lambda) of a network on learned images."""

    @abc.abstractmethod
    def __call__(self, model: Functional, params: Params, x: Tensor, y: Tensor) -> Tensor:
        """f without the penalty of the task, a scalar.

        Args:
            model: The network.
            params: z, its parameters.
            x: Learned images, [n, ...].
            y: Their soft labels, [n, classes].
        """
