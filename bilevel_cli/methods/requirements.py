"""What methods ask of a problem, checked before any work."""

import torch

from bilevel_cli import autodiff
from bilevel_cli.loop import InnerLoop
from bilevel_cli.problem import StepData
from bilevel_cli.trees import Params


def losses_depend_on_outer(who: str, loop: InnerLoop, outer: Params, data: StepData) -> None:
    """Raises ValueError where the outer parameters act through the start of the inner loop alone.

    Args:
        who: The class that needs the dependence, for the message.
        loop: The inner loop.
        outer: The outer parameters.
        data: The data of one inner problem.
    """
    inner, batch = loop.problem.init_inner(outer, data), data.inner_at(-1)
    # Away from the start, where a symmetry may hide the dependence.
    generator = torch.Generator().manual_seed(0)
    inner = {
        name: value + torch.randn(value.shape, generator=generator).to(value)
        for name, value in inner.items()
    }
    inner_part = autodiff.grad(loop.problem.inner_loss, 1)(inner, outer, batch)
    outer_part = autodiff.grad(loop.problem.outer_loss, 1)(inner, outer, data.outer)
    if not any(bool(g.any()) for part in (inner_part, outer_part) for g in part.values()):
        names = ", ".join(list(outer)[:3]) + " ..." * (len(outer) > 3)
        raise ValueError(
            f"{who} needs losses that depend on the outer parameters, got losses in which "
            f"{names} do not occur: they act through the start alone. Use method=reverse or "
            "method=iaptt, which differentiate the start."
        )
