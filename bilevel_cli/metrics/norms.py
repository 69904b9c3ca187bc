"""How far the parameters have gone."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bilevel_cli.core import trees
from bilevel_cli.core.random import INITIALISATION, generator
from bilevel_cli.metrics.base import Metric, StepView


@dataclass(frozen=True)
class Norms(Metric):
    """Euclidean norms, which show the implicit bias of methods in overparameterized problems.

    Columns, each over all entries together:

        outer_norm             |u|, of the outer parameters before the step
        outer_displacement     |u - u_0|, of the task's own outer parameters, from where they began
        inner_norm             |w|, of the last inner iterate, over all episodes
        inner_displacement     |w - w_prev|, from the iterate that the last outer step left

    Outer gradient descent with exact responses keeps outer_displacement least; a fully converged
    warm start keeps inner_displacement least (Vicol et al., 2022, arXiv:2212.14032). u_0 is drawn
    again at each row.

    Args:
        seed: Of the run.
    """

    seed: int

    def measure(self, view: StepView) -> dict[str, Tensor]:
        task: Any = view.loop.problem  # the task, with the solver's decay in its inner loss
        inner = view.estimate.carry["inner"]["inner"]
        first = task.init_outer(generator(self.seed, INITIALISATION))
        moved = {n: view.outer[n] - value.to(view.outer[n]) for n, value in first.items()}
        still = torch.zeros_like(view.estimate.loss)
        return {
            "outer_norm": trees.norm(view.outer),
            "outer_displacement": trees.norm(moved) if moved else still,
            "inner_norm": trees.norm(inner),
            "inner_displacement": trees.norm(trees.axpy(-1.0, view.carry["inner"]["inner"], inner)),
        }
