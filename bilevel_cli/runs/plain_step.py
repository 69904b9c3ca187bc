"""The step of an optimizer of torch, without what torch wraps around it."""

import inspect
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from torch.optim import Optimizer

# Of an optimizer, and of all optimizers: where torch keeps what is to be called besides a step.
HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
HOOKS_OF_ALL = ("_global_optimizer_pre_hooks", "_global_optimizer_post_hooks")


def plain_step(optimizer: Optimizer) -> Callable[[], Any]:
    """The step of an optimizer: the function itself where it is one of torch's, else `step`.

    torch marks each step for its profiler and for its compiler, and switches the recording of
    derivatives off, which takes longer than the step of a small tensor: 40 of 65 microseconds. The
    numbers are the same. An optimizer with hooks, which are called in that wrapping, keeps it; and
    so do all optimizers of a torch that keeps its hooks elsewhere.

    Args:
        optimizer: Has taken its first step, which torch's schedulers look for. Its steps are taken
            under `torch.no_grad`.
    """
    step, kind = optimizer.step, type(optimizer)
    nothing = {"unknown": None}  # stands for hooks where torch has no such name
    hooks = [getattr(optimizer, name, nothing) for name in HOOKS]
    hooks += [getattr(sys.modules[Optimizer.__module__], name, nothing) for name in HOOKS_OF_ALL]
    of_torch = kind.__module__.startswith("torch.optim.")
    if any(hooks) or not of_torch or optimizer.defaults.get("differentiable"):
        return step
    return partial(inspect.unwrap(kind.step), optimizer)
