"""higher (Grefenstette et al., 2019, arXiv:1910.01727): a patched module and its optimizer."""

import copy

import higher
import torch
from torch import Tensor

from benchmarks.case import Case, Implementation, over_episodes
from bilevel_cli.core.problem import Batch

NAME = "higher"


def unrolled(case: Case) -> Implementation:
    model, (_, outer) = copy.deepcopy(case.model), case.variables()
    wanted = list(outer.values()) or list(model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=case.lr, momentum=case.momentum)

    def one(inner: Batch, query: Batch) -> tuple[Tensor, ...]:
        # Without copies of the weights the start is part of the graph, and one copy is saved.
        with higher.innerloop_ctx(model, optimizer, copy_initial_weights=False) as (fast, steps):
            for _ in range(case.steps):
                steps.step(case.inner_loss(fast, fast.fast_params, outer, inner))
            return torch.autograd.grad(
                case.outer_loss(fast, fast.fast_params, outer, query), wanted
            )

    return over_episodes(case, one)
