"""The groups in which an optimizer is given the outer parameters."""

from typing import Any

from bilevel_cli.core import trees
from bilevel_cli.core.start import LEARNED_PREFIX, Start
from bilevel_cli.core.trees import Params


def grouped(outer: Params, start: Start) -> list[Any]:
    """The outer parameters, those of a start with a step size of its own apart.

    Args:
        outer: The outer parameters.
        start: The start policy, which may have such a step size.

    Returns:
        Tensors, or groups of them, as torch's optimizers take them.
    """
    lr = start.step_size()
    if lr is None:
        return list(outer.values())
    own = [value for name, value in outer.items() if not name.startswith(LEARNED_PREFIX)]
    learned = list(trees.under(LEARNED_PREFIX, outer).values())
    apart = [{"params": learned, "lr": lr}] if learned else []
    return [{"params": own}, *apart] if own else apart
