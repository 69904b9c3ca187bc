"""Learned images teach a network whose last layer is always at its optimum."""

from dataclasses import dataclass

from torch import Tensor

from bilevel_cli.core.trees import Params
from bilevel_cli.nn.functional import Functional
from bilevel_cli.tasks.distillation.lessons.base import Lesson
from bilevel_cli.tasks.distillation.objectives.kernel_ridge import check_penalty, ridge_error


@dataclass(frozen=True)
class Ridge(Lesson):
    """f = 1/2 mean |y_s - K_ss (K_ss + penalty * mean(diag K_ss) * I)^-1 y_s|^2, with K the inner
    products of the features that the last layer is given: the error of ridge regression on the
    learned images, on these images themselves.

    The last layer is eliminated, and the body is what the inner loop trains: the inner problem of
    RCIG (Loo et al., 2023, arXiv:2302.06755), where the network is linearised. The last layer in z
    keeps its random start, so that an objective that reads it learns nothing: the lesson is for
    task/objective=kernel_ridge, which solves for the last layer too.

    The Hessian of f is singular: it is zero for the last layer, and f does not change with the
    length of the features. Linear solvers that need an inverse ask for task.l2 > 0, or a damping.

    Args:
        penalty: Weight of the ridge, relative to the mean squared norm of the features.
    """

    penalty: float

    def __post_init__(self) -> None:
        check_penalty("Ridge", self.penalty, "task.lesson.penalty, e.g. 1e-3")

    def __call__(self, model: Functional, params: Params, x: Tensor, y: Tensor) -> Tensor:
        features = model.features(params, x)
        return ridge_error(features, y, features, y, self.penalty)
